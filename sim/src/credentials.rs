//! Keys and secrets of the models' world.

use aws_lc_rs::{
    encoding::AsDer,
    rsa::{KeyPair, KeySize},
    signature::KeyPair as _,
};
use base64::Engine as _;

/// The bearer token of the model cluster.
pub const TOKEN: &str = "model-cluster-token";
/// The webhooks' shared secret in the models' world.
pub const WEBHOOK_SECRET: &str = "model-webhook-secret";
/// The models' App ids: the service's own.
pub const APPS: (u64, u64) = (2_167_633, 3_131_217);
/// Anything that goes wrong while the world is set up.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// An App's key pair, made for the models' world alone.
#[derive(Clone)]
pub struct ModelKey {
    /// PKCS#8, as the service's environment holds it.
    pub pem: String,
    /// PKCS#1 DER, as GitHub knows it.
    pub public: Vec<u8>,
}

impl ModelKey {
    /// A 2048-bit RSA key.
    pub fn generate() -> Result<Self, Error> {
        Self::of(&KeyPair::generate(KeySize::Rsa2048)?)
    }

    /// The key that `path` holds, as PKCS#8; it is made when it is not there. For many short runs, which would spend their
    /// time on making keys.
    pub fn kept(path: &std::path::Path) -> Result<Self, Error> {
        if let Ok(der) = std::fs::read(path)
            && let Ok(pair) = KeyPair::from_pkcs8(&der)
        {
            return Self::of(&pair);
        }
        let pair = KeyPair::generate(KeySize::Rsa2048)?;
        let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der()?;
        // Whole or not at all: others may read it meanwhile.
        let draft = path.with_extension(std::process::id().to_string());
        std::fs::write(&draft, der.as_ref())?;
        std::fs::rename(&draft, path)?;
        Self::of(&pair)
    }

    fn of(pair: &KeyPair) -> Result<Self, Error> {
        let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der()?;
        let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
        let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
        Ok(Self { pem, public: pair.public_key().as_ref().to_vec() })
    }
}

/// The header that signs a body.
pub fn signature(secret: &str, body: &[u8]) -> String {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
    format!("sha256={}", hex::encode(aws_lc_rs::hmac::sign(&key, body)))
}
