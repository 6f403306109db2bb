//! One HTTP GET, by hand: the tests need no client crate for it.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The status code and body of `GET {base}{path}`; `base` is `http://host:port`. `token` goes as a bearer token.
pub async fn http_get(base: &str, path: &str, token: Option<&str>) -> std::io::Result<(u16, String)> {
    let address = base.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(address).await?;
    let token = token.map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
    // HTTP/1.0: no chunks to put together, and the connection ends with the body.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n{token}\r\n").as_bytes()).await?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await?;
    let reply = String::from_utf8_lossy(&reply);
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
    let code = head.split(' ').nth(1).and_then(|c| c.parse().ok());
    Ok((code.ok_or_else(|| std::io::Error::other(format!("no HTTP reply: {head}")))?, body.to_owned()))
}
