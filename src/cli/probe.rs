//! `sluice probe`: asks the process of the same settings over loopback how it is; what a container's health check runs,
//! so that the image needs no other program.
//!
//! Health needs no token to be asked for, but one to say what is wrong. The faults go to stderr with an exit code of 1, and `docker inspect` and `kubectl describe` show them.

use super::context::Context;
use super::failure::{Exit, Failure};
use crate::settings::Secret;
use clap::Args;
use serde_json::Value;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long connecting, and each read, may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// No health report is longer.
const MOST: u64 = 1 << 20;

#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// Ask whether it lives, not whether it is ready: red only where a restart helps
    #[arg(long)]
    live: bool,
    /// Where it listens, instead of `http.listen` of the settings
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<SocketAddr>,
}

/// Succeeds where the process says that it is well.
pub fn probe(context: &Context, args: &ProbeArgs) -> Result<(), Failure> {
    let failed = |message: String| Failure::new(Exit::Failed, message);
    let listen = args.address.or(context.settings.http.listen);
    let address = loopback(listen.ok_or_else(|| {
        failed(format!("http.listen is off in {}: nobody can be asked (listen on 127.0.0.1:8080)", context.settings_place()))
    })?);
    let path = if args.live { "/health/live" } else { "/health/ready" };
    let token = context.settings.http.token.as_ref().map(Secret::expose);
    let (code, body) =
        ask(address, path, token.as_deref()).map_err(|error| failed(format!("no answer from http://{address}{path}: {error}")))?;
    if code == 200 {
        return Ok(());
    }
    Err(failed(format!("http://{address}{path} answers {code}: {}", faults(&body))))
}

/// Where to ask a listener: one on every address is asked on loopback.
fn loopback(listen: SocketAddr) -> SocketAddr {
    let host = match listen.ip() {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    SocketAddr::new(host, listen.port())
}

fn ask(address: SocketAddr, path: &str, token: Option<&str>) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // HTTP/1.0: no chunks to put together, and the connection ends with the body.
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n{token}\r\n").as_bytes())?;
    let mut reply = Vec::new();
    stream.take(MOST).read_to_end(&mut reply)?;
    let reply = String::from_utf8_lossy(&reply);
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((code.ok_or_else(|| io::Error::other("it is no HTTP server"))?, body.to_owned()))
}

/// What is wrong, as far as the answer says.
fn faults(body: &str) -> String {
    let health: Value = serde_json::from_str(body).unwrap_or_default();
    let wrong = health["checks"].as_array().into_iter().flatten().filter(|check| check["ok"] == false);
    let text = |check: &Value, field: &str| check[field].as_str().unwrap_or_default().to_owned();
    let faults: Vec<_> = wrong.map(|check| format!("{}: {}", text(check, "name"), text(check, "message"))).collect();
    if faults.is_empty() { "not ready".to_owned() } else { faults.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_on_loopback() {
        let asked = |listen: &str| loopback(listen.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(asked("[::]:8080"), "[::1]:8080");
        assert_eq!(asked("10.1.2.3:80"), "10.1.2.3:80");
    }

    #[test]
    fn the_faults_of_a_health_report_are_named() {
        let body = r#"{"checks":[{"name":"nats","ok":true,"message":"connected"},{"name":"execution","ok":false,"message":"held up"}]}"#;
        assert_eq!(faults(body), "execution: held up");
        assert_eq!(faults("<html>"), "not ready");
    }
}
