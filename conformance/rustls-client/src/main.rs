//! `sluice-rustls-client ADDRESS HOST PREFIX COUNT`: requests over one connection by rustls; GET and POST take turns.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [address, host, prefix, count] = arguments else {
        return Err("usage: sluice-rustls-client ADDRESS HOST PREFIX COUNT".into());
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter("/etc/ca.pem")? {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.clone())?;
    let connection = ClientConnection::new(Arc::new(config), name)?;
    let mut stream = StreamOwned::new(connection, TcpStream::connect((address.as_str(), 443))?);
    for number in 0..count.parse::<u32>()? {
        let (method, length, body) =
            if number % 2 == 1 { ("POST", "Content-Length: 1\r\n", "x") } else { ("GET", "", "") };
        let request = format!("{method} {prefix}/{number} HTTP/1.1\r\nHost: {host}\r\n{length}\r\n{body}");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok\n") {
            let mut bytes = [0; 1024];
            let length = stream.read(&mut bytes)?;
            answer.extend_from_slice(&bytes[..length]);
        }
        if !answer.starts_with(b"HTTP/1.1 200 ") {
            return Err(String::from_utf8_lossy(&answer).into());
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice-rustls-client: {error}");
            ExitCode::FAILURE
        }
    }
}
