//! HTTPS as plainly as it can be spoken: one request on a connection of its own, whose answer is
//! read whole or as it comes. Asks the API server as fast as a test can look, and the node's own
//! server with whatever certificate, token or silence a test wants.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

/// How long a connection may take, and how long an answer may be silent: a server that hangs fails
/// the test that asks and not the whole run.
const SILENCE: Duration = Duration::from_secs(30);
/// The longest answer that is read whole: a list of all pods of a test is far below.
const ANSWER_MAX: u64 = 64 << 20;
/// The longest line of a head.
const LINE_MAX: u64 = 64 << 10;

/// Certificate and key, both PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// Who asks, whom, and whom it believes.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    bearer: Option<String>,
    silence: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a client of https://{}", self.address)
    }
}

impl Client {
    /// A client that believes servers of the authority `ca` (PEM), or any server without one.
    pub fn new(address: SocketAddr, ca: Option<&str>, identity: Option<&Identity>) -> Self {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .dangerous();
        let verifier: Arc<dyn ServerCertVerifier> = match ca {
            Some(pem) => {
                let mut roots = rustls::RootCertStore::empty();
                let ca = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
                roots.add(ca).expect("an authority");
                rustls::client::WebPkiServerVerifier::builder_with_provider(
                    Arc::new(roots),
                    provider,
                )
                .build()
                .expect("a verifier")
            }
            None => Arc::new(Anyone(provider)),
        };
        let builder = builder.with_custom_certificate_verifier(verifier);
        let tls = match identity {
            Some(Identity { certificate, key }) => {
                let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.as_bytes())
                    .collect::<Result<_, _>>()
                    .expect("certificates");
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("they belong together")
            }
            None => builder.with_no_client_auth(),
        };
        Self { address, tls: Arc::new(tls), bearer: None, silence: SILENCE }
    }

    /// The same, with a bearer token.
    #[must_use]
    pub fn with_bearer(mut self, token: &str) -> Self {
        self.bearer = Some(token.to_owned());
        self
    }

    /// The same, with another bound on the silence of a connection.
    #[must_use]
    pub fn with_silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    /// Where its server is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection on which nothing was said but TLS's own words.
    ///
    /// # Errors
    /// The server is not there, or does not let this client in.
    pub fn connect(&self) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let tcp = TcpStream::connect_timeout(&self.address, self.silence)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(self.silence))?;
        tcp.set_write_timeout(Some(self.silence))?;
        let name = ServerName::from(self.address.ip());
        let mut connection =
            ClientConnection::new(Arc::clone(&self.tls), name).map_err(io::Error::other)?;
        let mut socket = &tcp;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(StreamOwned::new(connection, tcp))
    }

    /// Sends a request and reads the head of its answer.
    ///
    /// # Errors
    /// Any step's.
    pub fn open(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> io::Result<Answer> {
        let mut stream = self.connect()?;
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAccept: application/json, \
             */*\r\nContent-Length: {}\r\n",
            self.address,
            body.len()
        );
        if !kind.is_empty() {
            head.push_str(&format!("Content-Type: {kind}\r\n"));
        }
        if let Some(token) = &self.bearer {
            head.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        stream.flush()?;
        Answer::read(BufReader::new(stream))
    }

    /// Sends a request and reads all of its answer: the status code and the body.
    ///
    /// # Errors
    /// Any step's.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: &[u8],
    ) -> io::Result<(u16, Vec<u8>)> {
        let answer = self.open(method, path, kind, body)?;
        let code = answer.code;
        let mut body = Vec::new();
        answer.take(ANSWER_MAX).read_to_end(&mut body)?;
        Ok((code, body))
    }

    /// `GET`, with the body as text.
    ///
    /// # Errors
    /// Any step's.
    pub fn get(&self, path: &str) -> io::Result<(u16, String)> {
        let (code, body) = self.request("GET", path, "", &[])?;
        Ok((code, String::from_utf8_lossy(&body).into_owned()))
    }
}

/// How much of a body is still to come.
enum Left {
    /// So many bytes.
    Bytes(u64),
    /// So many of the present chunk, and more chunks.
    Chunk(u64),
    /// All until the connection ends.
    All,
}

/// An answer whose body is read as it comes; dropping it closes the connection.
pub struct Answer {
    /// The status code.
    pub code: u16,
    /// The status line and the headers, in lower case.
    pub head: String,
    from: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    left: Left,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an answer: {}", self.head)
    }
}

impl Answer {
    fn read(mut from: BufReader<StreamOwned<ClientConnection, TcpStream>>) -> io::Result<Self> {
        let mut head = String::new();
        loop {
            let text = line(&mut from)?;
            if text.is_empty() {
                break;
            }
            head.push_str(&text.to_ascii_lowercase());
            head.push('\n');
        }
        let code = head.split(' ').nth(1).and_then(|code| code.trim().parse().ok());
        let code = code.ok_or_else(|| io::Error::other(format!("no status line: {head:?}")))?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let left = if head.contains("transfer-encoding: chunked") {
            Left::Chunk(0)
        } else {
            match length.and_then(|text| text.trim().parse().ok()) {
                Some(bytes) => Left::Bytes(bytes),
                None => Left::All,
            }
        };
        Ok(Self { code, head, from, left })
    }

    /// Its connection, for who ends it while another reads.
    ///
    /// # Errors
    /// There is no further descriptor.
    pub fn connection(&self) -> io::Result<TcpStream> {
        self.from.get_ref().sock.try_clone()
    }

    /// Bounds the wait for each next byte.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn set_silence(&self, silence: Duration) -> io::Result<()> {
        self.from.get_ref().sock.set_read_timeout(Some(silence))
    }
}

impl Read for Answer {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.left {
            Left::Bytes(0) => Ok(0),
            Left::Bytes(left) | Left::Chunk(left @ 1..) => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX).min(into.len());
                let read = self.from.read(&mut into[..most])?;
                *left -= read as u64;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(read)
            }
            Left::Chunk(0) => {
                // The line end of the chunk before, if there was one, and the size of the next.
                let mut text = line(&mut self.from)?;
                if text.is_empty() {
                    text = line(&mut self.from)?;
                }
                let size = u64::from_str_radix(text.trim(), 16)
                    .map_err(|_| io::Error::other(format!("no size of a chunk: {text:?}")))?;
                self.left = if size == 0 { Left::Bytes(0) } else { Left::Chunk(size) };
                self.read(into)
            }
            Left::All => match self.from.read(into) {
                // A server that just closes says nothing of it in TLS.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                result => result,
            },
        }
    }
}

/// A line without its end.
fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    if from.take(LINE_MAX).read_line(&mut text)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Believes every server: which one it is, the test knows.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
