//! Apps' tokens in the simulation. An RSA signature, and the entropy that its blinding collects at a process's start, take
//! more time than all else in most worlds, and show nothing that the tests of the real signatures over real sockets do
//! not. So tokens keep their form and their claims, and are signed by a MAC.

use aws_lc_rs::hmac;
use jsonwebtoken::{
    Algorithm,
    crypto::{CryptoProvider, JwkUtils, JwtSigner, JwtVerifier},
    signature::{Error, Signer, Verifier},
};

/// A model's secret; both models' Apps have one key as well.
const SECRET: &[u8] = b"what signs Apps' tokens in the simulation";

struct Mac(hmac::Key);

impl Mac {
    fn new() -> Box<Self> {
        Box::new(Self(hmac::Key::new(hmac::HMAC_SHA256, SECRET)))
    }
}

impl Signer<Vec<u8>> for Mac {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(hmac::sign(&self.0, message).as_ref().to_vec())
    }
}

impl JwtSigner for Mac {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}

impl Verifier<Vec<u8>> for Mac {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), Error> {
        hmac::verify(&self.0, message, signature).map_err(Error::from_source)
    }
}

impl JwtVerifier for Mac {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Ok(Mac::new()),
    verifier_factory: |_, _| Ok(Mac::new()),
    jwk_utils: JwkUtils::new_unimplemented(),
};

/// Has all tokens of this process signed and checked so.
pub fn install() {
    // A second run in one process finds it installed.
    let _ = PROVIDER.install_default();
}
