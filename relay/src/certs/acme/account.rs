//! The account at the ACME server: created at the first order, and kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hookward_core::secret::SecretReader as _;
use hookward_observe::audit::{Actor, AuditLog};
use hookward_runtime::secrets::ProcessSecrets;
use instant_acme::{Account, ExternalAccountKey, NewAccount};
use serde_json::json;
use zeroize::Zeroizing;

use super::AcmeError;
use super::client::AcmeClient;
use super::files::AcmeFiles;
use crate::settings::AcmeSettings;

/// Keeper of the account.
pub(super) struct AccountKeeper {
    settings: AcmeSettings,
    files: Arc<AcmeFiles>,
    client: AcmeClient,
    audit: AuditLog,
    account: Option<Account>,
    /// Time at which the account was replaced last.
    replaced: Option<Instant>,
}

impl AccountKeeper {
    pub(super) fn new(
        settings: AcmeSettings,
        files: Arc<AcmeFiles>,
        client: AcmeClient,
        audit: AuditLog,
    ) -> Self {
        Self {
            settings,
            files,
            client,
            audit,
            account: None,
            replaced: None,
        }
    }

    /// Makes the next call read the account's file and the server's directory again.
    pub(super) fn forget(&mut self) {
        self.account = None;
    }

    /// Returns `true` once a day: a server limits the number of accounts.
    pub(super) fn may_replace(&self) -> bool {
        self.replaced
            .is_none_or(|replaced| replaced.elapsed() >= REPLACEMENT_PAUSE)
    }

    /// Creates an account instead of one that the server does not accept.
    ///
    /// # Errors
    /// [`AcmeError`]; the file of the earlier account stays.
    pub(super) async fn replace(&mut self) -> Result<Account, AcmeError> {
        self.replaced = Some(Instant::now());
        self.create().await
    }

    /// Returns the account; creates one at the first time.
    ///
    /// # Errors
    /// [`AcmeError`].
    pub(super) async fn get(&mut self) -> Result<Account, AcmeError> {
        if let Some(account) = &self.account {
            return Ok(account.clone());
        }
        let Some(credentials) = self.files.account()? else {
            return self.create().await;
        };
        let builder = Account::builder_with_http(Box::new(self.client.clone()));
        let account = builder.from_credentials(credentials).await;
        let account = account.map_err(AcmeError::Account)?;
        self.account = Some(account.clone());
        Ok(account)
    }

    /// Creates an account, and replaces the file of an earlier one.
    async fn create(&mut self) -> Result<Account, AcmeError> {
        let contact = format!("mailto:{}", self.settings.email);
        let new = NewAccount {
            contact: &[&contact],
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let external = self.external_account()?;
        let directory = self.settings.directory.clone();
        let builder = Account::builder_with_http(Box::new(self.client.clone()));
        let created = builder.create(&new, directory, external.as_ref()).await;
        let (account, credentials) = created.map_err(AcmeError::Account)?;
        self.files.keep_account(&credentials)?;
        let details = json!({ "server": self.settings.directory });
        let audit = &self.audit;
        audit.act("acme_account_created", Actor::program(), details);
        self.account = Some(account.clone());
        Ok(account)
    }

    fn external_account(&self) -> Result<Option<ExternalAccountKey>, AcmeError> {
        let Some((id, source)) = &self.settings.external_account else {
            return Ok(None);
        };
        let loaded = ProcessSecrets.load_from(source.clone());
        let loaded = loaded.map_err(|error| AcmeError::ExternalAccount(error.to_string()))?;
        // Servers hand it out with and without padding.
        let text = loaded.secret.expose().trim_ascii();
        let text = text.strip_suffix(b"=").unwrap_or(text);
        let text = text.strip_suffix(b"=").unwrap_or(text);
        let key = data_encoding::BASE64URL_NOPAD.decode(text);
        let key = key.map(Zeroizing::new).map_err(|_| {
            AcmeError::ExternalAccount(format!("the key in {source} is not base64url"))
        })?;
        Ok(Some(ExternalAccountKey::new(id.clone(), &key)))
    }
}

/// Shortest time between two replacements of the account.
const REPLACEMENT_PAUSE: Duration = Duration::from_secs(86_400);
