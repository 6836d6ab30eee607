//! The list of mutations, and source text with all of them in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    mutation: Vec<Mutation>,
}

/// One check that is removed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mutation {
    pub(crate) name: String,
    pub(crate) file: String,
    /// What is mutated; occurs once in the file.
    find: String,
    /// The expression that takes its place.
    becomes: Option<String>,
    /// Or the text that does.
    text: Option<String>,
}

impl Mutation {
    /// The folder of the crate that it is in.
    pub(crate) fn package(&self) -> &str {
        self.file.split("/src/").next().unwrap_or_default()
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every mutation.
pub(crate) fn read() -> Vec<Mutation> {
    let text = fs::read_to_string(root().join("tests/mutations/list.toml")).unwrap();
    toml::from_str::<Document>(&text).unwrap().mutation
}

/// The mutated files, by path: each mutant is in them and switched off until it is named at run
/// time, so that one build serves all.
pub(crate) fn mutated(mutations: &[Mutation]) -> Result<BTreeMap<String, String>, String> {
    let mut sites: BTreeMap<(&str, &str), Vec<&Mutation>> = BTreeMap::new();
    for mutation in mutations {
        sites.entry((&mutation.file, &mutation.find)).or_default().push(mutation);
    }
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for ((file, find), mutations) in sites {
        let source = match files.remove(file) {
            Some(source) => source,
            None => fs::read_to_string(root().join(file)).map_err(|e| format!("{file}: {e}"))?,
        };
        let name = &mutations[0].name;
        if source.matches(find).count() != 1 {
            return Err(format!(
                "{name}: {find:?} must occur once in {file}; bring tests/mutations/list.toml up to date"
            ));
        }
        files.insert(file.to_owned(), source.replace(find, &replacement(find, &mutations)));
    }
    Ok(files)
}

fn replacement(find: &str, mutations: &[&Mutation]) -> String {
    if let [Mutation { text: Some(text), .. }] = mutations {
        return text.clone();
    }
    let arms: Vec<String> = mutations
        .iter()
        .map(|mutation| {
            let becomes = mutation.becomes.as_deref().expect("`becomes` or `text`");
            format!("{:?} => {{ {becomes} }}", mutation.name)
        })
        .collect();
    format!("(match crate::mutant::name() {{ {}, _ => {{ {find} }} }})", arms.join(", "))
}

/// What the mutated crates ask.
pub(crate) const SWITCH: &str = r#"
#[allow(dead_code)]
pub(crate) mod mutant {
    extern crate std;
    static NAME: std::sync::OnceLock<std::string::String> = std::sync::OnceLock::new();
    pub(crate) fn name() -> &'static str {
        NAME.get_or_init(|| std::env::var("CULVERT_MUTANT").unwrap_or_default())
    }
    pub(crate) fn is(wanted: &str) -> bool {
        name() == wanted
    }
}
"#;
