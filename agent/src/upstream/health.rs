//! Whether the application takes connections: said when it stops, and when it does again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::application::Application;
use crate::report::{Report, Reporter};
use hookward_shared::limits::UPSTREAM_CONNECT;

/// How often an application that took no connection is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// What is known of the application's health.
pub struct Health {
    down: AtomicBool,
    news: Notify,
    reporter: Reporter,
}

impl Health {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(reporter: Reporter) -> Self {
        Self { down: AtomicBool::new(false), news: Notify::new(), reporter }
    }

    /// A connection was made, or failed for this reason.
    pub fn note(&self, application: &Application, failure: Option<&str>) {
        let down = failure.is_some();
        if self.down.swap(down, Ordering::Relaxed) == down {
            return;
        }
        match failure {
            None => self.reporter.say(Report::Note(format!("the application at {application} is there again"))),
            Some(why) => {
                let what = format!("the application at {application} takes no connection ({why}); webhooks get 502");
                self.reporter.say(Report::Warning(what));
                self.news.notify_one();
            }
        }
    }

    /// Asks at the start, and while the application is down, until `stop` is cancelled.
    pub async fn watch(&self, application: &Application, stop: &CancellationToken) {
        loop {
            let failure = match timeout(UPSTREAM_CONNECT, application.connect()).await {
                Ok(connected) => connected.err().map(|error| error.to_string()),
                Err(_) => Some("no answer".to_owned()),
            };
            self.note(application, failure.as_deref());
            let next = async {
                if self.down.load(Ordering::Relaxed) {
                    sleep(AGAIN).await;
                } else {
                    self.news.notified().await;
                }
            };
            tokio::select! {
                () = next => {}
                () = stop.cancelled() => return,
            }
        }
    }
}
