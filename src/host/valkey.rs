//! Speaking with one valkey-server over its unix socket: the only user of the `redis` crate.
//!
//! Owns connecting, logging in, time limits and the forms of replies. Never decides anything, never retries, and never
//! shows a password or the arguments of a command in an error.

use std::io;
use std::iter;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Pipeline, ProtocolVersion, RedisConnectionInfo, Value};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::layout::Socket;
use crate::model::password::Secret;

/// Why a server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ValkeyError {
    #[error("its socket is not there")]
    Absent,
    #[error("nothing listens on its socket")]
    Refused,
    #[error("its socket cannot be used")]
    Io(#[source] io::Error),
    #[error("it did not answer within {:.1} s", .0.as_secs_f64())]
    Timeout(Duration),
    #[error("it closed the connection")]
    Gone,
    #[error("it does not let the user in: {0}")]
    NoAuth(String),
    #[error("the user has no right to do this: {0}")]
    NoPermission(String),
    #[error("it is still loading its data")]
    Loading,
    /// Any other error reply, in the server's own words.
    #[error("the server says: {0}")]
    Said(String),
    #[error("its reply has a form that is not expected: {0}")]
    Strange(&'static str),
}

/// A reply, without the cases of the protocol that no command here answers with.
#[derive(Debug)]
pub enum Reply {
    Text(String),
    Number(i64),
    List(Vec<Self>),
    Nothing,
}

/// A command as its words. The words may hold hashes, so this is never printed.
pub type Words<'a> = Vec<&'a str>;

/// One connection. Closed when dropped.
pub struct Connection {
    inner: MultiplexedConnection,
    driver: JoinHandle<()>,
    timeout: Duration,
    /// The process that listens on the socket, as the kernel says (`SO_PEERCRED`).
    pub pid: Option<u32>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Connects without logging in; also works while the server hangs, because the kernel takes the connection.
///
/// # Errors
/// When nothing listens there, or the server has so many waiting connections that the kernel takes no more.
pub async fn reach(socket: &Socket, timeout: Duration) -> Result<UnixStream, ValkeyError> {
    let path = socket.short_path().map_err(ValkeyError::Io)?;
    let connecting = UnixStream::connect(path.as_path());
    match tokio::time::timeout(timeout, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Err(ValkeyError::Absent),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(ValkeyError::Refused),
        Ok(Err(error)) => Err(ValkeyError::Io(error)),
        Err(_elapsed) => Err(ValkeyError::Timeout(timeout)),
    }
}

impl Connection {
    /// A connection over a stream that [`reach`] gave. `timeout` bounds every reply.
    ///
    /// # Errors
    /// When the stream broke.
    pub async fn over(stream: UnixStream, timeout: Duration) -> Result<Self, ValkeyError> {
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()).and_then(|pid| u32::try_from(pid).ok());
        // The operator may not say CLIENT SETINFO, and nobody reads it.
        let info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let (inner, driver) =
            MultiplexedConnection::new_with_config(&info, stream, config).await.map_err(|_broken| ValkeyError::Gone)?;
        Ok(Self { inner, driver: tokio::spawn(driver), timeout, pid })
    }

    /// Logs in.
    ///
    /// # Errors
    /// [`ValkeyError::NoAuth`] when the server knows no such user or password.
    pub async fn log_in(&mut self, user: &str, password: &Secret) -> Result<(), ValkeyError> {
        self.log_in_and_ask(user, password, &[]).await.map(drop)
    }

    /// Logs in and asks in the same round trip. `AUTH` goes first: a failing one behind other commands gets no reply at all
    /// (facts B.4).
    ///
    /// # Errors
    /// As [`Connection::log_in`] and [`Connection::ask_all`].
    pub async fn log_in_and_ask(
        &mut self,
        user: &str,
        password: &Secret,
        commands: &[Words<'_>],
    ) -> Result<Vec<Result<Reply, ValkeyError>>, ValkeyError> {
        let auth = vec!["AUTH", user, password.reveal()];
        let all: Vec<Words<'_>> = iter::once(auth).chain(commands.iter().cloned()).collect();
        let mut replies = self.ask_all(&all).await?;
        if replies.is_empty() {
            return Err(ValkeyError::Strange("no reply"));
        }
        // What was asked behind a refused one was answered to nobody whom we know.
        replies.remove(0)?;
        Ok(replies)
    }

    /// Other time limits from here on.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// One command.
    ///
    /// # Errors
    /// What the server answered, if it was an error, or why there was no answer.
    pub async fn ask(&mut self, words: Words<'_>) -> Result<Reply, ValkeyError> {
        let replies = self.ask_all(&[words]).await?;
        replies.into_iter().next().unwrap_or(Err(ValkeyError::Strange("no reply")))
    }

    /// Several commands in one round trip, each with its own reply.
    ///
    /// # Errors
    /// When the connection broke or took too long; what the server did is then unknown.
    pub async fn ask_all(&mut self, commands: &[Words<'_>]) -> Result<Vec<Result<Reply, ValkeyError>>, ValkeyError> {
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for words in commands {
            let mut command = redis::Cmd::new();
            words.iter().for_each(|word| {
                command.arg(word);
            });
            pipeline.add_command(command);
        }
        let asking = self.inner.send_packed_commands(&pipeline, 0, commands.len());
        match tokio::time::timeout(self.timeout, asking).await {
            Ok(Ok(replies)) => Ok(replies.into_iter().map(reply).collect()),
            Ok(Err(error)) if error.is_io_error() || error.is_connection_dropped() => Err(ValkeyError::Gone),
            Ok(Err(_unreadable)) => Err(ValkeyError::Strange("not the server's protocol")),
            Err(_elapsed) => Err(ValkeyError::Timeout(self.timeout)),
        }
    }
}

fn reply(value: Value) -> Result<Reply, ValkeyError> {
    match value {
        Value::BulkString(bytes) => Ok(Reply::Text(text(bytes))),
        Value::SimpleString(text) => Ok(Reply::Text(text)),
        Value::Okay => Ok(Reply::Text("OK".to_owned())),
        Value::Int(number) => Ok(Reply::Number(number)),
        Value::Nil => Ok(Reply::Nothing),
        Value::Array(values) => values.into_iter().map(reply).collect::<Result<_, _>>().map(Reply::List),
        Value::ServerError(error) => Err(refusal(error.code(), error.details().unwrap_or_default())),
        // Forms of RESP3, which is never asked for.
        Value::Map(_)
        | Value::Attribute { .. }
        | Value::Set(_)
        | Value::Double(_)
        | Value::Boolean(_)
        | Value::VerbatimString { .. }
        | Value::BigNumber(_)
        | Value::Push { .. }
        | _ => Err(ValkeyError::Strange("a form of another protocol version")),
    }
}

/// A server's texts are bytes; what is not UTF-8 cannot be ours and only has to be shown.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn refusal(code: &str, details: &str) -> ValkeyError {
    match code {
        "WRONGPASS" | "NOAUTH" => ValkeyError::NoAuth(details.to_owned()),
        "NOPERM" => ValkeyError::NoPermission(details.to_owned()),
        "LOADING" => ValkeyError::Loading,
        "ERR" => ValkeyError::Said(details.to_owned()),
        _ => ValkeyError::Said(format!("{code} {details}")),
    }
}

impl Reply {
    /// # Errors
    /// When it is not text.
    pub fn into_text(self) -> Result<String, ValkeyError> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Number(_) | Self::List(_) | Self::Nothing => Err(ValkeyError::Strange("not a text")),
        }
    }

    /// # Errors
    /// When it is not a list of texts.
    pub fn into_texts(self) -> Result<Vec<String>, ValkeyError> {
        match self {
            Self::List(replies) => replies.into_iter().map(Self::into_text).collect(),
            Self::Text(_) | Self::Number(_) | Self::Nothing => Err(ValkeyError::Strange("not a list")),
        }
    }
}

/// The value of a field of `INFO`.
pub fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_fields_are_found_by_their_whole_name() {
        let info = "# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.0.1\r\n";
        assert_eq!(info_field(info, "valkey_version"), Some("8.0.1"));
        assert_eq!(info_field(info, "version"), None);
        assert_eq!(info_field(info, "valkey"), None);
    }

    #[test]
    fn refusals_are_told_apart() {
        assert!(matches!(refusal("WRONGPASS", "x"), ValkeyError::NoAuth(_)));
        assert!(matches!(refusal("NOPERM", "x"), ValkeyError::NoPermission(_)));
        assert!(matches!(refusal("LOADING", "x"), ValkeyError::Loading));
        assert_eq!(refusal("ERR", "no").to_string(), "the server says: no");
    }
}
