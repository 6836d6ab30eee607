//! Words of the language that people are told things in: how a count and what is counted
//! agree, and what a terminal may be given.

/// A count and what is counted: `1 node`, `2 nodes`.
#[must_use]
pub fn counted(count: impl Into<Count>, one: &str) -> String {
    let Count(count) = count.into();
    match (count, one.strip_suffix('y'), one.ends_with('s')) {
        (1, ..) => format!("1 {one}"),
        (_, Some(stem), _) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{count} {stem}ies"),
        (_, _, true) => format!("{count} {one}es"),
        _ => format!("{count} {one}s"),
    }
}

/// The text as a terminal may have it: what is no letter but a command to it, other than the end of
/// a line, is shown as that.
#[must_use]
pub fn plain(text: &str) -> String {
    let is_command = |c: char| c.is_control() && c != '\n';
    text.chars().map(|c| if is_command(c) { '\u{fffd}' } else { c }).collect()
}

/// A number of things.
#[derive(Clone, Copy, Debug)]
pub struct Count(u64);

impl From<usize> for Count {
    fn from(count: usize) -> Self {
        Self(u64::try_from(count).unwrap_or(u64::MAX))
    }
}

impl From<u16> for Count {
    fn from(count: u16) -> Self {
        Self(count.into())
    }
}

impl From<u64> for Count {
    fn from(count: u64) -> Self {
        Self(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_gets_no_commands() {
        let text = "node\u{1b}[2J\r\u{9b}1m\u{7f} ä\n";
        assert_eq!(plain(text), "node\u{fffd}[2J\u{fffd}\u{fffd}1m\u{fffd} ä\n");
    }

    #[test]
    fn one_thing_is_not_several() {
        let said = [0_usize, 1, 2].map(|count| counted(count, "node"));
        assert_eq!(said, ["0 nodes", "1 node", "2 nodes"]);
        assert_eq!(counted(2_u64, "address"), "2 addresses");
        assert_eq!(counted(2_u64, "policy"), "2 policies");
        assert_eq!(
            (counted(1_u64, "policy"), counted(3_u64, "way")),
            ("1 policy".into(), "3 ways".into())
        );
    }
}
