//! The source keeps to its layout: imports point one way, `pipeline` is pure, files are short and open with what they are.
