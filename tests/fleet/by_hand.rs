//! A lab to try things on by hand, for as long as its standard input is open:
//! `VALKEEPER_LAB="bookworm trixie" cargo test --test fleet -- --ignored --nocapture by_hand`.

use std::env;
use std::io::Read as _;

use crate::base::Suite;
use crate::lab::Lab;

#[test]
#[ignore = "it ends with its standard input: for trying things on hosts by hand"]
fn hosts_to_try_things_on_by_hand() {
    let wanted = env::var("VALKEEPER_LAB").unwrap_or_else(|_| "bookworm bookworm bookworm".to_owned());
    let lab = Lab::of(wanted.split_whitespace().map(|name| Suite::named(name).expect("bullseye, bookworm or trixie")));
    // cleanup.rs reads this line.
    println!("lab: place {} guard {}", lab.place().number(), lab.place().guard());
    for host in &lab.hosts {
        println!("lab: {} {}", lab.folder().join("ssh").display(), host.name);
    }
    println!("lab: ready; it ends with Ctrl-D or Ctrl-C");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}
