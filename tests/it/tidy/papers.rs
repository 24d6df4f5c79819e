//! What is not Rust: golden folders are whole, documents name what exists.

use std::collections::BTreeSet;
use std::path::Path;

const ARCHITECTURE_LINES_MAX: usize = 200;

/// The names in a folder; none where there is no folder.
pub fn names_in(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeSet::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().expect("names in the tree are UTF-8")).collect()
}

/// What a case of `tests/golden/plans/` lacks.
pub fn plan_case(names: &BTreeSet<String>) -> Option<&'static str> {
    let has = |name: &str| names.contains(name);
    let input = has("desired.toml") && has("live.toml");
    let plan = has("plan.txt") && has("plan.json");
    let problems = has("problems.txt");
    match (input, plan, problems) {
        (true, true, false) | (true, false, true) => None,
        (false, _, _) => Some("needs desired.toml and live.toml"),
        (true, true, true) => Some("has both a plan and problems"),
        (true, false, false) => Some("needs plan.txt and plan.json, or problems.txt"),
    }
}

/// What a case of `tests/golden/problems/` lacks.
pub fn problem_case(names: &BTreeSet<String>) -> Option<&'static str> {
    let toml = names.iter().any(|name| name.ends_with(".toml"));
    match (toml, names.contains("problems.txt")) {
        (true, true) => None,
        (false, _) => Some("needs a .toml"),
        (true, false) => Some("needs problems.txt"),
    }
}

/// The cases below a folder that lack something.
pub fn unwhole_cases(root: &Path, folder: &str, lack: fn(&BTreeSet<String>) -> Option<&'static str>) -> Vec<String> {
    let check = |case: String| {
        let names = names_in(&root.join(folder).join(&case));
        lack(&names).map(|lack| format!("{folder}/{case}: {lack}"))
    };
    names_in(&root.join(folder)).into_iter().filter_map(check).collect()
}

/// The decisions that the list of decisions does not link.
pub fn unlinked(list: &str, names: &BTreeSet<String>) -> Vec<String> {
    let is_linked = |name: &&String| name.as_str() == "README.md" || list.contains(&format!("]({name})"));
    names.iter().filter(|name| !is_linked(name)).map(|name| format!("docs/decisions/README.md: does not link {name}")).collect()
}

/// The paths that a document writes as code and the places that it links; `exists` answers for each.
pub fn dangling(document: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let code = text.split('`').skip(1).step_by(2).filter(|word| is_path(word));
    let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()).filter(|link| !link.contains("://"));
    let missing = code.chain(links).filter(|path| !path.is_empty() && !exists(path));
    missing.map(|path| format!("{document}: names {path}, which does not exist")).collect()
}

/// A path of this project: it has a folder, starts at no other place, and holds no placeholder. A bare file name may be
/// of any folder.
fn is_path(word: &str) -> bool {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    let known_ending = [".rs", ".toml", ".md", "/"].iter().any(|ending| word.ends_with(ending));
    plain && known_ending && word.contains('/') && !word.starts_with(['/', '.'])
}

pub fn too_long(text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let breach = format!("ARCHITECTURE.md: {lines} lines, more than {ARCHITECTURE_LINES_MAX}");
    (lines > ARCHITECTURE_LINES_MAX).then_some(breach).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_golden_folder_that_lacks_a_file_is_found() {
        assert_eq!(plan_case(&names(&["desired.toml", "live.toml", "plan.txt", "plan.json"])), None);
        assert_eq!(plan_case(&names(&["desired.toml", "live.toml", "problems.txt"])), None);
        assert!(plan_case(&names(&["desired.toml", "live.toml", "plan.txt"])).is_some());
        assert!(plan_case(&names(&["desired.toml", "plan.txt", "plan.json"])).is_some());
        assert!(plan_case(&names(&["desired.toml", "live.toml", "plan.txt", "plan.json", "problems.txt"])).is_some());
        assert_eq!(problem_case(&names(&["a.toml", "problems.txt"])), None);
        assert!(problem_case(&names(&["a.toml"])).is_some());
        assert!(problem_case(&names(&["problems.txt"])).is_some());
    }

    #[test]
    fn a_decision_that_is_not_linked_is_found() {
        let names = names(&["README.md", "0001-a.md", "0002-b.md"]);
        assert_eq!(unlinked("- [a](0001-a.md)", &names).len(), 1);
    }

    #[test]
    fn a_path_that_does_not_exist_is_found() {
        let exists = |path: &str| ["src/model/", "a.md"].contains(&path);
        let text = "`src/model/` holds `Plan`, see [a](a.md#why), [b](b.md), `src/gone.rs`, `<case>/x.toml`, `./state`, [c](https://c.md).";
        assert_eq!(dangling("A.md", text, exists).len(), 2);
    }

    #[test]
    fn a_long_architecture_page_is_found() {
        assert_eq!(too_long(&"line\n".repeat(ARCHITECTURE_LINES_MAX)).len(), 0);
        assert_eq!(too_long(&"line\n".repeat(ARCHITECTURE_LINES_MAX + 1)).len(), 1);
    }
}
