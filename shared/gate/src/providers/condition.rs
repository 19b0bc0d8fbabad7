//! Evaluation of conditions on a request.

use subtle::ConstantTimeEq as _;

use crate::providers::error::SignatureError;
use crate::providers::key::SecretParts;
use crate::providers::locator::{SignatureParams, ValueLocator};
use crate::providers::scheme::Required;
use crate::providers::signing_input::SigningContext;
use crate::request::Request;

impl Required {
    /// Returns `true` if the condition holds. Without `strict`, a missing part of the secret
    /// requires nothing.
    pub(crate) fn holds(
        &self,
        request: &Request<'_>,
        parts: &SecretParts,
        strict: bool,
    ) -> Result<(), SignatureError> {
        let no_members = SignatureParams::default();
        let value = self.at.read(request, &no_members)?;

        if self.absent {
            return if value.is_none() {
                Ok(())
            } else {
                Err(SignatureError::Required(self.at.to_string()))
            };
        }

        let value = value.unwrap_or_default();
        let lower = |text: &[u8]| text.to_ascii_lowercase();
        let fits = if let Some(text) = &self.begins {
            lower(&value).starts_with(&lower(text.as_bytes()))
        } else if let Some(text) = &self.contains {
            memchr::memmem::find(&lower(&value), &lower(text.as_bytes())).is_some()
        } else if let Some(text) = &self.lists {
            value
                .split(|byte| *byte == b',')
                .any(|member| member.trim_ascii().eq_ignore_ascii_case(text.as_bytes()))
        } else if let Some(template) = &self.is {
            let scene = SigningContext {
                request: *request,
                members: &no_members,
                ts: None,
                origin: request.head.origin,
            };
            let wanted = scene
                .message(template, parts)
                .map(|(_, wanted)| wanted.concat(request.body));
            match wanted {
                // Every byte of a body counts.
                Ok(wanted) if template.is_caseless() && self.at != ValueLocator::Body => {
                    wanted.eq_ignore_ascii_case(&value)
                }
                Ok(wanted) => wanted.ct_eq(&value).into(),
                Err(SignatureError::NoPart(_)) => !strict,
                Err(fault) => return Err(fault),
            }
        } else {
            false
        };

        if fits {
            Ok(())
        } else {
            Err(SignatureError::Required(self.at.to_string()))
        }
    }
}
