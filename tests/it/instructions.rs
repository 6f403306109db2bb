//! What the hot path costs per document, in instructions: a bound that a regression breaks on every machine alike, however
//! busy it is. `deploy/local/instructions.sh` counts.

use std::process::Command;

/// Counted on 1.95, optimized for size as the release is: 1,300 (1,071 for speed). What is above that is room for other
/// compilers, not for us: what lowers the count lowers the bound.
const MOST: u64 = 1_400;

#[test]
fn a_document_costs_no_more_instructions_than_it_did() {
    require!("valgrind");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/instructions.sh");
    let output = Command::new("bash").arg(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let count: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
    println!("{count} instructions a document");
    assert!(count <= MOST, "{count} instructions a document, more than {MOST}");
    assert!(count * 2 > MOST, "{count} instructions a document: the bound of {MOST} holds nothing any more, lower it");
}
