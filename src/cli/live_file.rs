//! What the nodes show as TOML: printed by `observe`, read back by `plan --live`. No secret is in it.

use anyhow::Context as _;

use crate::model::live::Live;

/// Renders live facts.
///
/// # Errors
/// When a fact has no TOML form, which would be a fault of ours.
pub fn render(live: &Live) -> anyhow::Result<String> {
    toml::to_string(live).context("the facts could not be written as TOML")
}

/// Reads live facts.
///
/// # Errors
/// When the text is not TOML of that form.
pub fn parse(text: &str) -> anyhow::Result<Live> {
    toml::from_str(text).context("these are not facts that \"valkeeper observe\" printed")
}
