//! Trying whether a port can be reached from this machine. Says nothing over the connection.

#![expect(clippy::disallowed_methods, reason = "other nodes are reached over the network, and only by trying is that known")]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the other machine may take to answer: three tries to connect, a second apart (tcp(7)), would be 3 s.
const LIMIT: Duration = Duration::from_secs(2);

/// Connects, and hangs up.
///
/// # Errors
/// Why it cannot be reached, in words for people.
pub async fn try_way(to: SocketAddr) -> Result<(), String> {
    match timeout(LIMIT, TcpStream::connect(to)).await {
        Ok(Ok(_connection)) => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err("the connection was refused: a firewall, or nothing listens there".to_owned())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err(format!("no answer within {LIMIT:?}: a firewall, or no way there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_is_reached_while_somebody_listens() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let there = listener.local_addr().unwrap();
        assert_eq!(try_way(there).await, Ok(()));
        drop(listener);
        assert!(try_way(there).await.unwrap_err().contains("refused"));
    }
}
