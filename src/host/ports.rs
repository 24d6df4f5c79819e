//! Which TCP ports of this machine are listened on.

use std::collections::BTreeSet;
use std::io;

/// State `LISTEN` in /proc/net/tcp (`TCP_LISTEN` of include/net/tcp_states.h).
const LISTEN: &str = "0A";

/// Every TCP port on which anything listens, IPv4 and IPv6.
///
/// # Errors
/// When the kernel's table cannot be read. Without IPv6 there is only the first table.
pub fn listening() -> io::Result<BTreeSet<u16>> {
    let mut ports = parse(&std::fs::read_to_string("/proc/net/tcp")?);
    match std::fs::read_to_string("/proc/net/tcp6") {
        Ok(table) => ports.extend(parse(&table)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(ports)
}

/// Lines of `sl local_address rem_address st …` (Documentation/networking/proc_net_tcp.rst).
fn parse(table: &str) -> BTreeSet<u16> {
    let port = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let (_address, port) = local.rsplit_once(':')?;
        (state == LISTEN).then(|| u16::from_str_radix(port, 16).ok())?
    };
    table.lines().skip(1).filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_seen_and_a_connection_is_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let seen = listening().unwrap();
        assert!(seen.contains(&port));
        drop(listener);
        assert!(!listening().unwrap().contains(&port));
        drop(client);
    }
}
