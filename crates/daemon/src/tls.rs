//! TLS for the TCP listener: certificate and key from PEM files, HTTP/2 only. The Unix socket never speaks it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as PEM.
    #[error("failed to read {}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// The chain is empty.
    #[error("{} holds no certificate", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not belong together.
    #[error("the certificate does not match the key")]
    Config(#[from] rustls::Error),
}

/// What turns an accepted TCP connection into a TLS one.
///
/// # Errors
/// A file cannot be read, or the key does not belong to the certificate.
pub fn acceptor(chain: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        move |source| TlsError::Pem { path, source }
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(chain)
        .map_err(at(chain))?
        .collect::<Result<_, _>>()
        .map_err(at(chain))?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { path: chain.into() });
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(at(key))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
