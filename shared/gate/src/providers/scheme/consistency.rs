//! Consistency of a scheme's fields. Both sides check it, because a scheme may come from a policy.

use crate::providers::locator::ValueLocator;
use crate::providers::scheme::{
    Algorithm, Encoding, JwtRules, KeyForm, KeySource, Pick, Required, Scheme,
};
use crate::providers::template::{Template, ValueSource};

/// Reason why a scheme or a secret is unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemeError {
    /// The fields of the scheme contradict each other.
    #[error("{0}")]
    Contradiction(&'static str),
    /// The secret does not have the provider's format.
    #[error("the secret is not {0}, as this provider's secrets are")]
    Key(&'static str),
    /// The secret needs several parts, and is not written in that format.
    #[error("the secret is a JSON object with the keys {0}")]
    Parts(String),
    /// A part of the secret is missing.
    #[error("the secret has no part {0:?}")]
    MissingPart(String),
    /// The key is not one of the algorithm.
    #[error("the key is not a public key of this provider's algorithm")]
    PublicKey,
    /// The decoded key is empty.
    #[error("the secret holds an empty key")]
    EmptyKey,
}

impl Scheme {
    /// Checks that the fields are consistent.
    ///
    /// # Errors
    /// [`SchemeError`] for the first contradiction.
    pub(crate) fn check(&self) -> Result<(), SchemeError> {
        let contradiction = |what| Err(SchemeError::Contradiction(what));
        let picks_keys = matches!(self.sig.pick, Some(Pick::Key(_) | Pick::Part(_)));
        if self.sig.kv.is_some() != picks_keys {
            return contradiction("kv and a pick by key go together");
        }

        if matches!(self.sig.pick, Some(Pick::From(_))) && self.sig.split.is_none() {
            return contradiction("a pick by position needs split");
        }

        if [&self.sig.split, &self.sig.kv]
            .into_iter()
            .any(|text| text.as_deref() == Some(""))
        {
            return contradiction("split and kv are not empty");
        }

        if matches!(
            self.sig.at,
            ValueLocator::Member(_) | ValueLocator::Position(_)
        ) {
            return contradiction("sig stands somewhere in the request, not in itself");
        }

        let token = self.alg == Algorithm::Equals;
        let jwt = self.alg == Algorithm::Jwt;
        if (token || jwt) && (self.ts.is_some() || self.msg != Template::default()) {
            return contradiction("a token signs nothing: neither msg nor ts");
        }

        if jwt != self.jwt.is_some() {
            return contradiction("alg = \"jwt\" and jwt go together");
        }

        if !token && !jwt && self.sig.enc == Encoding::Text {
            return contradiction("a signature is written in hex or base64");
        }

        let fits = match self.key {
            KeyForm::Pem | KeyForm::Jwks if jwt => {
                self.jwt.as_ref().is_some_and(|rules| !rules.is_symmetric())
            }
            KeyForm::Jwks => false,
            KeyForm::Pem | KeyForm::SpkiBase64 | KeyForm::Whpk => self.alg.is_public(),
            KeyForm::Base64 | KeyForm::Hex if jwt => {
                self.jwt.as_ref().is_some_and(JwtRules::is_symmetric)
            }
            KeyForm::Base64 | KeyForm::Hex => !token,
            KeyForm::Utf8 if jwt => self.jwt.as_ref().is_some_and(JwtRules::is_symmetric),
            _ => !self.alg.is_public() && (!token || self.key == KeyForm::Utf8),
        };
        if !fits {
            return contradiction("the algorithm has no keys of this form");
        }

        let has_secret = self
            .msg
            .sources()
            .any(|source| matches!(source, ValueSource::Secret(_)));
        if self.alg.is_digest() && !has_secret {
            return contradiction("a plain digest is a signature only with {secret} in msg");
        }

        if self.msg.parts().is_empty() {
            return contradiction("msg is empty: nothing is signed");
        }

        let constant = |source: &ValueSource| matches!(source, ValueSource::Secret(_));
        if !token && !jwt && self.msg.sources().all(constant) {
            return contradiction(
                "msg holds nothing of the request, so one signature fits every request",
            );
        }

        if self.each.is_none()
            && self
                .msg
                .sources()
                .any(|source| matches!(source, ValueSource::Item(_)))
        {
            return contradiction("{item:…} needs each");
        }

        if let Some(rules) = &self.jwt {
            rules.check()?;
        }

        if let Some(fetch) = &self.fetch {
            fetch.check()?;
            if !self.alg.is_public() && !jwt {
                return contradiction("only a public key can be fetched");
            }
        }

        for required in &self.require {
            required.check()?;
        }

        self.check_time()
    }

    fn check_time(&self) -> Result<(), SchemeError> {
        let signs_time = self
            .msg
            .sources()
            .any(|source| *source == ValueSource::Timestamp)
            || self.key == KeyForm::TsUtf8;

        let Some(ts) = &self.ts else {
            return if signs_time {
                Err(SchemeError::Contradiction("{ts} needs ts"))
            } else {
                Ok(())
            };
        };

        // A timestamp in a body that is signed as a whole is signed, too.
        let in_body = ts.at.is_in_body()
            && self
                .msg
                .sources()
                .any(|source| *source == ValueSource::Body);
        // Or in a signed header of the list, which `require` demands.
        let listed = self
            .msg
            .sources()
            .any(|source| matches!(source, ValueSource::SignedHeaders(_)));
        if !signs_time && !in_body && !listed {
            return Err(SchemeError::Contradiction(
                "a timestamp that is not signed proves nothing",
            ));
        }

        match ts.at {
            ValueLocator::Member(_) if self.sig.kv.is_none() => {
                Err(SchemeError::Contradiction("ts at sig:KEY needs kv"))
            }
            ValueLocator::Position(_) if self.sig.split.is_none() => {
                Err(SchemeError::Contradiction("ts at sig:#N needs split"))
            }
            ValueLocator::Numbered(_) => Err(SchemeError::Contradiction("ts stands in one place")),
            _ => Ok(()),
        }
    }
}

impl JwtRules {
    fn check(&self) -> Result<(), SchemeError> {
        if self.algs.is_empty() {
            return Err(SchemeError::Contradiction(
                "jwt.algs is empty: no token could pass",
            ));
        }

        // A token that could choose the algorithm would use the public key as a shared secret (RFC
        // 8725 §2.1).
        if self.algs.iter().any(|alg| alg.is_symmetric()) && !self.is_symmetric() {
            return Err(SchemeError::Contradiction(
                "jwt.algs mixes shared secrets (HS…) and public keys",
            ));
        }

        if self
            .unless_empty
            .as_ref()
            .is_some_and(|claim| !self.claims.contains_key(claim))
        {
            return Err(SchemeError::Contradiction(
                "jwt.unless_empty names no claim of jwt.claims",
            ));
        }

        Ok(())
    }
}

impl Required {
    fn check(&self) -> Result<(), SchemeError> {
        let conditions = [
            self.begins.is_some(),
            self.contains.is_some(),
            self.lists.is_some(),
            self.is.is_some(),
            self.absent,
        ];
        match conditions.into_iter().filter(|given| *given).count() {
            1 => Ok(()),
            _ => Err(SchemeError::Contradiction(
                "require has exactly one of begins, contains, lists, is, absent",
            )),
        }
    }
}

impl KeySource {
    fn check(&self) -> Result<(), SchemeError> {
        if self.url.is_some() == self.from.is_some() {
            return Err(SchemeError::Contradiction("fetch has either url or from"));
        }

        if self.from.is_some() && self.hosts.is_empty() {
            return Err(SchemeError::Contradiction(
                "fetch.from needs hosts: the sender does not choose where keys come from",
            ));
        }

        if self.from.is_some() && !self.path.starts_with('/') {
            return Err(SchemeError::Contradiction(
                "fetch.from needs path, such as \"/certs/*.pem\"",
            ));
        }

        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(text: &str) -> Scheme {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn contradictions_are_refused() {
        for bad in [
            "alg='hmac-sha256'\nmsg='{ts}{body}'\nsig={at='header:x', enc='hex'}",
            "alg='hmac-sha256'\nts={at='header:t', unit='s', tolerance=1}\nsig={at='header:x', enc='hex'}",
            "alg='hmac-sha256'\nsig={at='header:x', enc='hex', kv='='}",
            "alg='hmac-sha256'\nsig={at='header:x', enc='hex', pick='1+'}",
            "alg='hmac-sha256'\nsig={at='header:x', enc='text'}",
            "alg='hmac-sha256'\nsig={at='sig:x', enc='hex'}",
            "alg='hmac-sha256'\nmsg='{secret}'\nsig={at='header:x', enc='hex'}",
            "alg='hmac-sha256'\nmsg='{item:a}'\nsig={at='header:x', enc='hex'}",
            "alg='sha256'\nsig={at='header:x', enc='hex'}",
            "alg='equals'\nmsg='{header:y}{body}'\nsig={at='header:x', enc='text'}",
            "alg='equals'\nkey='hex'\nsig={at='header:x', enc='text'}",
            "alg='hmac-sha256'\nkey='pem'\nsig={at='header:x', enc='hex'}",
            "alg='ed25519'\nsig={at='header:x', enc='hex'}",
            "alg='jwt'\nsig={at='header:x', enc='text'}",
            "alg='jwt'\njwt={algs=[]}\nsig={at='header:x', enc='text'}",
            "alg='jwt'\njwt={algs=['HS256','RS256']}\nsig={at='header:x', enc='text'}",
            "alg='jwt'\nkey='pem'\njwt={algs=['HS256']}\nsig={at='header:x', enc='text'}",
            "alg='rsa-sha256'\nkey='pem'\nfetch={from='json:u'}\nsig={at='header:x', enc='hex'}",
            "alg='hmac-sha256'\nrequire=[{at='header:y'}]\nsig={at='header:x', enc='hex'}",
        ] {
            assert!(scheme(bad).check().is_err(), "{bad}");
        }

        for bad in [
            "msg='{header:x'",
            "msg='{nobody}'",
            "sig={at='x', enc='hex'}",
            "unknown=1",
        ] {
            let text = format!("alg='hmac-sha256'\n{bad}\nsig={{at='header:x', enc='hex'}}");
            assert!(toml::from_str::<Scheme>(&text).is_err(), "{bad}");
        }
    }
}
