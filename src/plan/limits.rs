//! Which limits on connections get tighter when settings change live: the server closes what is beyond them at once. It
//! does not judge whether there are such connections: only the server sees that.

use crate::model::binary::BinaryFacts;
use crate::model::plan::ConnectionLimit;
use crate::model::spec::InstanceSpec;

/// The limits that get tighter, as far as open connections are concerned (tried with 8.0.1, one after the other). `open`:
/// how many connections there are.
pub(super) fn tightened(binary: &BinaryFacts, before: &InstanceSpec, after: &InstanceSpec, open: u64) -> Vec<ConnectionLimit> {
    let both = |name: &str| {
        let usual = || binary.settings.get(name).map(|facts| facts.default.as_str());
        before.get(name).or_else(usual).zip(after.get(name).or_else(usual)).filter(|(before, after)| before != after)
    };
    let number = |(_, after): (&str, &str)| after.parse::<u64>().unwrap_or_default();
    let idle =
        both("timeout").filter(|change| is_tighter(*change)).map(|change| ConnectionLimit::Idle { seconds: number(change) });
    let memory = both("maxmemory-clients").filter(|change| is_tighter(*change)).map(|_| ConnectionLimit::Memory);
    let replies = both("client-output-buffer-limit").filter(|change| are_tighter(*change)).map(|_| ConnectionLimit::Replies);
    let request = both("client-query-buffer-limit").filter(|change| is_tighter(*change)).map(|_| ConnectionLimit::Request);
    let count = both("maxclients").map(number).filter(|max| *max < open).map(|max| ConnectionLimit::Count { max, open });
    [idle, memory, replies, request, count].into_iter().flatten().collect()
}

/// Zero is no limit. What is no number (a share of the memory, such as `5%`) may be tighter.
fn is_tighter((before, after): (&str, &str)) -> bool {
    match (before.parse::<u64>(), after.parse::<u64>()) {
        (_, Ok(0)) => false,
        (Ok(0), Ok(_)) => true,
        (Ok(before), Ok(after)) => after < before,
        (Err(_), _) | (_, Err(_)) => true,
    }
}

/// `class hard soft seconds …`, in the server's own order: tighter if any class is.
fn are_tighter((before, after): (&str, &str)) -> bool {
    let (before, after): (Vec<&str>, Vec<&str>) = (before.split(' ').collect(), after.split(' ').collect());
    let class = |(before, after): (&[&str], &[&str])| match (before, after) {
        ([_, hard, soft, seconds], [_, new_hard, new_soft, new_seconds]) => {
            let sooner = *new_soft != "0" && is_sooner(seconds, new_seconds);
            is_tighter((hard, new_hard)) || is_tighter((soft, new_soft)) || sooner
        }
        _ => true,
    };
    before.chunks(4).zip(after.chunks(4)).any(class)
}

fn is_sooner(before: &str, after: &str) -> bool {
    before.parse::<u64>().ok().zip(after.parse::<u64>().ok()).is_none_or(|(before, after)| after < before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::SettingName;

    fn spec(name: &str, value: &str) -> InstanceSpec {
        InstanceSpec::new([(SettingName::new(name).unwrap(), value.to_owned())].into())
    }

    fn found(name: &str, before: &str, after: &str) -> Vec<ConnectionLimit> {
        let binary: BinaryFacts = serde_json::from_str(include_str!("../../tests/golden/binaries/8.0.1.json")).unwrap();
        tightened(&binary, &spec(name, before), &spec(name, after), 7)
    }

    #[test]
    fn only_a_tighter_limit_counts_and_zero_is_none() {
        assert_eq!(found("timeout", "0", "300"), [ConnectionLimit::Idle { seconds: 300 }]);
        assert_eq!(found("timeout", "300", "0"), []);
        assert_eq!(found("timeout", "300", "301"), []);
        assert_eq!(found("maxmemory-clients", "0", "5%"), [ConnectionLimit::Memory]);
        assert_eq!(found("client-query-buffer-limit", "2097152", "1048576"), [ConnectionLimit::Request]);
        assert_eq!(found("maxclients", "10000", "5"), [ConnectionLimit::Count { max: 5, open: 7 }]);
        assert_eq!(found("maxclients", "10000", "9000"), []);
    }

    #[test]
    fn any_class_of_output_buffers_may_be_tighter() {
        let limits = |pubsub: &str| format!("normal 0 0 0 slave 268435456 67108864 60 pubsub {pubsub}");
        let tighter =
            |before, after| found("client-output-buffer-limit", &limits(before), &limits(after)) == [ConnectionLimit::Replies];
        assert!(tighter("33554432 8388608 60", "1048576 8388608 60"));
        assert!(tighter("33554432 0 60", "33554432 8388608 60"));
        assert!(tighter("33554432 8388608 60", "33554432 8388608 10"));
        assert!(!tighter("33554432 8388608 60", "0 0 0"));
        assert!(!tighter("1048576 8388608 60", "33554432 8388608 60"));
    }
}
