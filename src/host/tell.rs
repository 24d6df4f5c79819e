//! What is being done right now, for whoever watches. A word that nobody has time for is lost; nobody waits for a listener.

use tokio::sync::mpsc;

/// Words that wait to be heard; more are dropped.
const WAITING: usize = 16;

/// Where to tell it.
#[derive(Debug, Clone)]
pub struct Tell(Option<mpsc::Sender<String>>);

impl Tell {
    /// A listener, and where to tell it. What is told ends when all of these are gone.
    pub fn to_listener() -> (Self, mpsc::Receiver<String>) {
        let (to, from) = mpsc::channel(WAITING);
        (Self(Some(to)), from)
    }

    pub fn nobody() -> Self {
        Self(None)
    }

    pub fn say(&self, words: impl Into<String>) {
        if let Some(to) = &self.0 {
            let _lost = to.try_send(words.into());
        }
    }
}
