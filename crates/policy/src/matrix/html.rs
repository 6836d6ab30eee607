//! A matrix as a page: one file, without scripts, that opens anywhere.

use std::fmt::Write as _;

use super::{Cell, Matrix, Place};

const STYLE: &str = "\
:root { color-scheme: light dark; --line: #8884; --head: #8881; --all: #2a9d5c33; --some: #e9b44c44; \
--none: #c4454533; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; }
p { max-width: 60rem; }
.scroll { overflow: auto; max-height: 85vh; border: 1px solid var(--line); }
table { border-collapse: separate; border-spacing: 0; font-size: .85rem; }
th, td { border: solid var(--line); border-width: 0 1px 1px 0; padding: .3rem .5rem; text-align: left; \
vertical-align: top; white-space: nowrap; }
thead th { position: sticky; top: 0; background: Canvas; z-index: 1; writing-mode: vertical-rl; \
transform: rotate(180deg); max-height: 16rem; }
thead th:first-child { writing-mode: horizontal-tb; transform: none; }
tbody th { position: sticky; left: 0; background: Canvas; font-weight: 600; }
tr.namespace th { background: var(--head); font-weight: 400; font-style: italic; }
td.all { background: var(--all); } td.some { background: var(--some); } td.none { background: var(--none); }
.key span { padding: .1rem .5rem; margin-right: .6rem; border: 1px solid var(--line); }
.key .all { background: var(--all); } .key .some { background: var(--some); } \
.key .none { background: var(--none); }
";

impl Matrix {
    /// The matrix as a page called `title`.
    #[must_use]
    pub fn to_html(&self, title: &str) -> String {
        let mut page = String::new();
        let title = escaped(title);
        let _ = write!(
            page,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
             <style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
             <p>A row says what may go from its place to each other one: protocols and ports of new \
             connections, answers included. Pods that no policy tells apart are one place. Between a \
             pod and its own node, and from a pod to itself, everything passes.</p>\n\
             <p class=\"key\"><span class=\"all\">all</span><span class=\"some\">some</span>\
             <span class=\"none\">nothing</span></p>\n\
             <div class=\"scroll\">\n<table>\n<thead><tr><th>from \\ to</th>"
        );
        for place in &self.places {
            let _ = write!(page, "<th scope=\"col\">{}</th>", escaped(&place.to_string()));
        }
        page.push_str("</tr></thead>\n<tbody>\n");
        for (from, (place, row)) in self.places.iter().zip(&self.cells).enumerate() {
            self.section(&mut page, from);
            let _ = write!(
                page,
                "<tr><th scope=\"row\"{}>{}</th>",
                hint(place),
                escaped(&place.to_string())
            );
            for (to, cell) in self.places.iter().zip(row) {
                write_cell(&mut page, place, to, cell.as_ref());
            }
            page.push_str("</tr>\n");
        }
        page.push_str("</tbody>\n</table>\n</div>\n</body>\n</html>\n");
        page
    }

    /// A line between namespaces.
    fn section(&self, page: &mut String, at: usize) {
        let section = |at: usize| match self.places.get(at)? {
            Place::Pods { namespace, .. } => Some(format!("namespace {namespace}")),
            Place::Nodes { .. } => Some("nodes".to_owned()),
            Place::Network(_) | Place::Elsewhere => Some("outside the cluster".to_owned()),
        };
        let now = section(at);
        if at == 0 || at.checked_sub(1).and_then(section) != now {
            let columns = self.places.len() + 1;
            let name = escaped(&now.unwrap_or_default());
            let _ = writeln!(
                page,
                "<tr class=\"namespace\"><th colspan=\"{columns}\">{name}</th></tr>"
            );
        }
    }
}

fn write_cell(page: &mut String, from: &Place, to: &Place, cell: Option<&Cell>) {
    let Some(cell) = cell else {
        page.push_str("<td></td>");
        return;
    };
    let class = match cell.alike() {
        Some(openings) if openings.is_all() => "all",
        _ if cell.is_none() => "none",
        Some(_) | None => "some",
    };
    let title = escaped(&format!("{from} → {to}"));
    let text = escaped(&cell.to_string());
    let _ = write!(page, "<td class=\"{class}\" title=\"{title}\">{text}</td>");
}

/// The names of all pods or nodes of a group, for whoever points at it.
fn hint(place: &Place) -> String {
    match place {
        Place::Pods { names, .. } | Place::Nodes { names } if names.len() > 1 => {
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            format!(" title=\"{}\"", escaped(&names.join(", ")))
        }
        Place::Pods { .. } | Place::Nodes { .. } | Place::Network(_) | Place::Elsewhere => {
            String::new()
        }
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}
