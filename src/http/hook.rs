//! Who may say that something was pushed: a proof in the request's head, over its body.
//!
//! | forge | header | proof |
//! | --- | --- | --- |
//! | GitHub | `X-Hub-Signature-256` | `sha256=` and the HMAC-SHA256 of the body, in hex |
//! | Gitea, Forgejo | `X-Gitea-Signature`, `X-Forgejo-Signature` | the HMAC-SHA256 of the body, in hex |
//! | GitLab | `X-Gitlab-Token` | the secret itself |
//!
//! Sources: GitHub "Validating webhook deliveries", Gitea "Webhooks", GitLab "Webhooks". All comparisons take the same time
//! whatever is wrong.

use std::fmt;
use std::sync::Arc;

use axum::http::HeaderMap;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::model::password::Secret;

const GITHUB: &str = "x-hub-signature-256";
const GITEA: [&str; 2] = ["x-gitea-signature", "x-forgejo-signature"];
const GITLAB: &str = "x-gitlab-token";

/// The way in for a forge.
#[derive(Clone)]
pub struct Hook {
    secret: Secret,
    trigger: Arc<dyn Fn() + Send + Sync>,
}

/// The secret would prove nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the secret of the push hook is empty")]
pub struct EmptySecret;

impl Hook {
    /// `trigger` must return at once: it is called while the forge waits.
    ///
    /// # Errors
    /// The secret is empty: every request would be let in.
    pub fn new(secret: Secret, trigger: Arc<dyn Fn() + Send + Sync>) -> Result<Self, EmptySecret> {
        if secret.reveal().is_empty() {
            return Err(EmptySecret);
        }
        Ok(Self { secret, trigger })
    }

    pub fn pull(&self) {
        (self.trigger)();
    }

    /// Does the request come from somebody who knows the secret? The first proof that is there counts.
    pub fn is_proved(&self, head: &HeaderMap, body: &[u8]) -> bool {
        let text = |name: &str| head.get(name).map(|value| value.to_str().unwrap_or_default());
        if let Some(signature) = text(GITHUB) {
            return signature.strip_prefix("sha256=").is_some_and(|hex| self.signed(hex, body));
        }
        if let Some(hex) = GITEA.iter().find_map(|name| text(name)) {
            return self.signed(hex, body);
        }
        // Digests have one length, so that not even the secret's length shows.
        let digest = |bytes: &[u8]| -> [u8; 32] { Sha256::digest(bytes).into() };
        let is_secret = |token: &[u8]| digest(token).ct_eq(&digest(self.secret.reveal().as_bytes())).into();
        head.get(GITLAB).is_some_and(|token| is_secret(token.as_bytes()))
    }

    fn signed(&self, hex: &str, body: &[u8]) -> bool {
        let mut signature = [0; 32];
        let Ok(signature) = base16ct::lower::decode(hex.as_bytes(), &mut signature) else { return false };
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.secret.reveal().as_bytes()) else { return false };
        mac.update(body);
        mac.verify_slice(signature).is_ok()
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook").field("secret", &self.secret).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(secret: &str) -> Hook {
        Hook::new(Secret::new(secret.to_owned()), Arc::new(|| ())).unwrap()
    }

    fn proved(hook: &Hook, name: &'static str, value: &str, body: &[u8]) -> bool {
        let mut head = HeaderMap::new();
        head.insert(name, value.parse().unwrap());
        hook.is_proved(&head, body)
    }

    /// The example in GitHub's "Validating webhook deliveries".
    const SECRET: &str = "It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    const HEX: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    #[test]
    fn each_forge_is_let_in_by_its_own_proof() {
        let hook = hook(SECRET);
        assert!(proved(&hook, GITHUB, &format!("sha256={HEX}"), BODY));
        assert!(proved(&hook, GITEA[0], HEX, BODY) && proved(&hook, GITEA[1], HEX, BODY));
        assert!(proved(&hook, GITLAB, SECRET, BODY));
    }

    #[test]
    fn a_wrong_proof_is_none() {
        let hook = hook(SECRET);
        assert!(!hook.is_proved(&HeaderMap::new(), BODY));
        for wrong in ["", HEX, "sha256=", &format!("sha1={HEX}"), &format!("sha256={}", HEX.get(..62).unwrap()), "sha256=zz"] {
            assert!(!proved(&hook, GITHUB, wrong, BODY), "{wrong}");
        }
        assert!(!proved(&hook, GITHUB, &format!("sha256={HEX}"), b"Hello, World?"));
        assert!(!proved(&hook, GITEA[0], &format!("sha256={HEX}"), BODY));
        for wrong in ["", "It's a Secret to Everybod", "It's a Secret to Everybody!"] {
            assert!(!proved(&hook, GITLAB, wrong, BODY), "{wrong}");
        }
    }

    #[test]
    fn a_right_token_does_not_cure_a_wrong_signature() {
        let mut head = HeaderMap::new();
        head.insert(GITLAB, SECRET.parse().unwrap());
        head.insert(GITHUB, "sha256=00".parse().unwrap());
        assert!(!hook(SECRET).is_proved(&head, BODY));
    }

    #[test]
    fn an_empty_secret_is_refused_and_none_is_shown() {
        assert_eq!(Hook::new(Secret::new(String::new()), Arc::new(|| ())).err(), Some(EmptySecret));
        assert!(!format!("{:?}", hook("hunter2")).contains("hunter2"));
    }
}
