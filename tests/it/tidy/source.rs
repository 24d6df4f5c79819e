//! One Rust file of the tree, read with Rust's own lexer: its lines of code, the paths it names, the text it holds.
//!
//! Comments never count, nor does what is under `#[cfg(test)]`. Knows no rule: those are in the other files here.

use std::collections::BTreeSet;
use std::path::Path;
use std::str::FromStr as _;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// A file, as far as the rules look at it.
#[derive(Debug, Default)]
pub struct Source {
    /// From the root of the project, such as `src/model/acl/mod.rs`.
    pub path: String,
    /// Its first line begins with `//!`.
    pub says_what_it_owns: bool,
    pub lines_of_code: usize,
    /// Every path of two words or more, expanded to the end (`use a::{b, c::d}` is `a::b` and `a::c::d`), with `crate`,
    /// `self` and `super` resolved to begin with `crate`.
    pub paths: Vec<Named>,
    /// Every word outside of strings.
    pub words: Vec<Named>,
    /// Every string, as written.
    pub strings: Vec<Named>,
}

/// Something a file says, and the line where it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub text: String,
    pub line: usize,
}

impl Source {
    pub fn read(root: &Path, path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::parse(path.strip_prefix(root).unwrap().to_str().unwrap(), &text)
    }

    pub fn parse(path: &str, text: &str) -> Self {
        let stream = TokenStream::from_str(text).unwrap_or_else(|error| panic!("{path}: not Rust: {error}"));
        let mut reader = Reader { module: module_of(path), ..Reader::default() };
        reader.read(stream);
        let mut source = Self {
            path: path.to_owned(),
            says_what_it_owns: text.starts_with("//!"),
            words: reader.words,
            strings: reader.strings,
            ..Self::default()
        };
        source.lines_of_code = reader.lines.len();
        source.paths = reader.paths;
        source
    }

    /// Where something is, for a message.
    pub fn at(&self, named: &Named) -> String {
        format!("{}:{}", self.path, named.line)
    }

    /// The module this file is, such as `model::acl::parse`; empty for the root.
    pub fn module(&self) -> String {
        module_of(&self.path).join("::")
    }

    /// Its path below `src/`.
    pub fn below_src(&self) -> Option<&str> {
        self.path.strip_prefix("src/")
    }
}

fn module_of(path: &str) -> Vec<String> {
    let inner = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
    let mut names: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if names.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        names.pop();
    }
    names
}

#[derive(Default)]
struct Reader {
    module: Vec<String>,
    lines: BTreeSet<usize>,
    paths: Vec<Named>,
    words: Vec<Named>,
    strings: Vec<Named>,
}

impl Reader {
    fn read(&mut self, stream: TokenStream) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            if let Some((attribute, length)) = attribute(&tokens[at..]) {
                if is_cfg_test(attribute) {
                    at += length;
                    at += item_length(&tokens[at..]);
                    continue;
                }
                if first_word(attribute).as_deref() == Some("doc") {
                    at += length;
                    continue;
                }
            }
            if let TokenTree::Ident(_) = token
                && !follows_path_separator(&tokens, at)
            {
                self.read_path(&tokens, at);
            }
            let known = self.paths.len();
            self.read_token(token);
            if follows_path_separator(&tokens, at) {
                // The inside of `use a::{b::c}`: its paths are known already, from their beginning.
                self.paths.truncate(known);
            }
            at += 1;
        }
    }

    fn read_token(&mut self, token: &TokenTree) {
        let named = |text: String| Named { text, line: token.span().start().line };
        match token {
            TokenTree::Ident(ident) => self.words.push(named(ident.to_string())),
            TokenTree::Literal(literal) => {
                let text = literal.to_string();
                if text.contains('"') {
                    self.strings.push(named(text));
                }
            }
            TokenTree::Punct(_) => {}
            TokenTree::Group(group) => {
                self.lines.insert(group.span_open().start().line);
                self.lines.insert(group.span_close().end().line);
                self.read(group.stream());
                return;
            }
        }
        self.lines.extend(token.span().start().line..=token.span().end().line);
    }

    /// The paths that begin with the word at this place.
    fn read_path(&mut self, tokens: &[TokenTree], at: usize) {
        let line = tokens[at].span().start().line;
        let mut found = Vec::new();
        expand(&tokens[at..], &[], &mut found);
        for mut names in found {
            self.resolve(&mut names);
            if names.len() > 1 {
                self.paths.push(Named { text: names.join("::"), line });
            }
        }
    }

    fn resolve(&self, names: &mut Vec<String>) {
        let mut above = self.module.clone();
        let ours = match names.first().map(String::as_str) {
            Some("valkeeper") => {
                names[0] = "crate".to_owned();
                return;
            }
            Some("self") => 1,
            Some("super") => {
                let ups = names.iter().take_while(|name| *name == "super").count();
                above.truncate(above.len().saturating_sub(ups));
                ups
            }
            _ => return,
        };
        let rest = names.split_off(ours);
        *names = std::iter::once("crate".to_owned()).chain(above).chain(rest).collect();
    }
}

/// Follows `a::b::{c, d::e}` from its first word; each end becomes one path.
fn expand(tokens: &[TokenTree], before: &[String], found: &mut Vec<Vec<String>>) {
    let mut names = before.to_vec();
    let mut at = 0;
    while let Some(TokenTree::Ident(ident)) = tokens.get(at) {
        names.push(ident.to_string());
        at += 1;
        if !is_separator(&tokens[at.min(tokens.len())..]) {
            break;
        }
        at += 2;
        if let Some(TokenTree::Group(group)) = tokens.get(at) {
            if group.delimiter() == Delimiter::Brace {
                expand_group(group, &names, found);
                return;
            }
            break;
        }
    }
    found.push(names);
}

fn expand_group(group: &Group, before: &[String], found: &mut Vec<Vec<String>>) {
    let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
    let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',');
    for branch in tokens.split(is_comma).filter(|branch| !branch.is_empty()) {
        expand(branch, before, found);
    }
}

fn is_separator(tokens: &[TokenTree]) -> bool {
    let colon = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    colon(tokens.first()) && colon(tokens.get(1))
}

fn follows_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    at >= 2 && is_separator(&tokens[at - 2..])
}

/// The attribute that begins here, and how many tokens it takes.
fn attribute(tokens: &[TokenTree]) -> Option<(&Group, usize)> {
    let punct = |at: usize, wanted: char| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == wanted);
    let group_at = match (punct(0, '#'), punct(1, '!')) {
        (true, true) => 2,
        (true, false) => 1,
        (false, _) => return None,
    };
    match tokens.get(group_at) {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket => Some((group, group_at + 1)),
        _ => None,
    }
}

fn first_word(group: &Group) -> Option<String> {
    group.stream().into_iter().next().map(|token| token.to_string())
}

fn is_cfg_test(attribute: &Group) -> bool {
    attribute.stream().to_string().replace(' ', "") == "cfg(test)"
}

/// How many tokens the item takes that begins here: up to its block or its semicolon.
fn item_length(tokens: &[TokenTree]) -> usize {
    let ends = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(punct) => punct.as_char() == ';',
        TokenTree::Ident(_) | TokenTree::Literal(_) => false,
    };
    tokens.iter().position(ends).map_or(tokens.len(), |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::Source;

    const TEXT: &str = r##"//! Owns nothing.

/// A doc comment names `std::fs`.
use std::{fs, collections::{BTreeMap as Map, btree_map::Entry}};
use super::super::host::{self, files};

fn f() -> &'static str {
    // A comment.
    let _ = crate::plan::plan();
    r#"+@all"#
}

#[cfg(test)]
mod tests {
    use tokio::task;
}
"##;

    fn texts(named: &[super::Named]) -> Vec<&str> {
        named.iter().map(|named| named.text.as_str()).collect()
    }

    #[test]
    fn paths_are_expanded_and_resolved_and_tests_are_left_out() {
        let source = Source::parse("src/model/acl/parse.rs", TEXT);
        assert!(source.says_what_it_owns);
        assert_eq!(
            texts(&source.paths),
            [
                "std::fs",
                "std::collections::BTreeMap",
                "std::collections::btree_map::Entry",
                "crate::model::host::self",
                "crate::model::host::files",
                "crate::plan::plan"
            ]
        );
    }

    #[test]
    fn lines_of_code_are_neither_blank_nor_comments_nor_tests() {
        assert_eq!(Source::parse("src/a.rs", TEXT).lines_of_code, 6);
    }

    #[test]
    fn strings_keep_their_line() {
        let source = Source::parse("src/a.rs", TEXT);
        assert_eq!(texts(&source.strings), ["r#\"+@all\"#"]);
        assert_eq!(source.at(&source.strings[0]), "src/a.rs:10");
    }
}
