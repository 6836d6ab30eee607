//! `culvert-pages DIRECTORY`: the manual pages and completion scripts that `make install` installs.
//!
//! A program of its own, so that the product does not carry what is needed once, where it is built.
//! Below the directory everything has the place that it has below a prefix.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// Where each shell looks for scripts of programs, below the prefix that they were installed under.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "share/bash-completion/completions/culvert"),
    (Shell::Zsh, "share/zsh/site-functions/_culvert"),
    (Shell::Fish, "share/fish/vendor_completions.d/culvert.fish"),
];

fn main() -> Result<()> {
    let directory = std::env::args_os().nth(1).context("name the directory to write to")?;
    write(&PathBuf::from(directory))
}

/// Writes everything below `directory`.
fn write(directory: &Path) -> Result<()> {
    let pages = directory.join("share/man/man1");
    make(&pages)?;
    let mut command = culvert::command().disable_help_subcommand(true);
    command.build();
    write_pages(&command, &pages)?;
    for (shell, place) in COMPLETIONS {
        let path = directory.join(place);
        make(path.parent().context("a file is in a directory")?)?;
        fs::write(&path, culvert::completion(shell)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Writes the page of a command and those of all below it.
fn write_pages(command: &Command, directory: &Path) -> Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_pages(below, directory)?;
    }
    let page = Man::new(command.clone()).manual("Culvert");
    let path = directory.join(page.get_filename());
    let mut text = Vec::new();
    page.render(&mut text)?;
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

fn make(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(command: &Command, found: &mut Vec<String>) {
        // What is hidden is for programs.
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            names(below, found);
        }
        found.push(format!(
            "{}.1",
            command.get_display_name().unwrap_or_else(|| command.get_name())
        ));
    }

    #[test]
    fn every_command_has_a_page_that_says_what_it_is_for() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path()).unwrap();
        let mut command = culvert::command().disable_help_subcommand(true);
        command.build();
        let mut expected = Vec::new();
        names(&command, &mut expected);
        assert!(expected.len() > 20, "{expected:?}");
        for name in &expected {
            let page = fs::read_to_string(directory.path().join("share/man/man1").join(name));
            let page = page.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{name}: {page}");
            assert!(page.contains("culvert"), "{name}: {page}");
        }
        let pages = fs::read_dir(directory.path().join("share/man/man1")).unwrap().count();
        assert_eq!(pages, expected.len());
        for (_, place) in COMPLETIONS {
            assert!(fs::metadata(directory.path().join(place)).unwrap().len() > 100, "{place}");
        }
    }
}
