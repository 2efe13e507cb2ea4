//! TLS of the committer's connection, as `sslmode` and its fellows in `DATABASE_URL` ask for it: the same as the other driver has.

use std::{fs, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use shared::BoxError;
use sqlx::postgres::PgSslMode;
use tokio_postgres::config::SslMode;

/// Certificates in files: each a path, or the PEM text itself.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// `sslrootcert`: trusted besides those of the system.
    pub(super) roots: Option<String>,
    /// `sslcert`: ours.
    pub(super) certificate: Option<String>,
    /// `sslkey`: its key.
    pub(super) key: Option<String>,
}

/// Whether the connection is to be encrypted. `allow` is `disable`, as it is for the other driver.
pub(super) fn negotiation(mode: PgSslMode) -> SslMode {
    match mode {
        PgSslMode::Disable | PgSslMode::Allow => SslMode::Disable,
        PgSslMode::Prefer => SslMode::Prefer,
        PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull => SslMode::Require,
    }
}

/// What a server must show: anything up to `require`, a certificate that is trusted for `verify-ca`, and that names its host for
/// `verify-full`.
///
/// # Errors
/// When a file cannot be read or holds something else, or only one of certificate and key is given.
pub(super) fn client(mode: PgSslMode, files: &Files) -> Result<ClientConfig, BoxError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let any_name = |trusted| {
        builder
            .clone()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyName { trusted, provider: Arc::clone(&provider) }))
    };
    let builder = match mode {
        PgSslMode::VerifyFull => builder.clone().with_root_certificates(roots(files)?),
        PgSslMode::VerifyCa => {
            let roots = Arc::new(roots(files)?);
            any_name(Some(WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?))
        }
        PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer | PgSslMode::Require => any_name(None),
    };
    match (&files.certificate, &files.key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(certificate), Some(key)) => {
            let key = PrivateKeyDer::from_pem_slice(&pem(key)?)?;
            Ok(builder.with_client_auth_cert(certificates(certificate)?, key)?)
        }
        _ => Err("sslcert and sslkey are given together, or neither is".into()),
    }
}

fn roots(files: &Files) -> Result<RootCertStore, BoxError> {
    let mut roots = RootCertStore::empty();
    // What of the system's cannot be read is not trusted, no more.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(ours) = &files.roots {
        for certificate in certificates(ours)? {
            roots.add(certificate)?;
        }
    }
    Ok(roots)
}

fn certificates(given: &str) -> Result<Vec<CertificateDer<'static>>, BoxError> {
    Ok(CertificateDer::pem_slice_iter(&pem(given)?).collect::<Result<_, _>>()?)
}

fn pem(given: &str) -> Result<Vec<u8>, BoxError> {
    if given.trim_start().starts_with("-----BEGIN") {
        return Ok(given.as_bytes().to_vec());
    }
    fs::read(given).map_err(|error| format!("{given} cannot be read: {error}").into())
}

/// Takes a certificate whatever host it names.
#[derive(Debug)]
struct AnyName {
    /// Who must have signed it; `None`: it may be anybody's, and the connection is secret from those who only listen.
    trusted: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(trusted) = &self.trusted else { return Ok(ServerCertVerified::assertion()) };
        match trusted.verify_server_cert(certificate, between, host, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
