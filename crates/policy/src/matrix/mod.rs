//! Who may speak with whom: every place against every other, and how that differs between two
//! worlds.
//!
//! A place is a group of pods that no policy tells apart, a network that a policy names, or the
//! rest of the world. One address of each stands for all.

mod html;
mod places;
mod text;

use std::fmt;
use std::net::IpAddr;

use crate::judge::{Judge, Traffic};
use crate::openings::Openings;
use crate::world::World;
use places::{Standing, places};

pub use places::Place;

/// Who may speak with whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Rows and columns.
    pub places: Vec<Place>,
    /// What may go from a place (the row) to another; none where no policy has a say.
    pub cells: Vec<Vec<Option<Cell>>>,
}

/// What may go from one place to another, in each family that both have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// In IPv4.
    pub v4: Option<Openings>,
    /// In IPv6.
    pub v6: Option<Openings>,
}

/// How what may pass differs between two worlds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where something differs, in the order of places.
    pub changes: Vec<Change>,
    /// Pods that only the first world has.
    pub gone: Vec<String>,
    /// Pods that only the second world has.
    pub new: Vec<String>,
}

/// What differs between two places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where it comes from.
    pub from: Place,
    /// Where it goes.
    pub to: Place,
    /// What may pass now, and could not.
    pub opened: Cell,
    /// What cannot pass now, and could.
    pub closed: Cell,
}

impl Matrix {
    /// The matrix of `world`.
    #[must_use]
    pub fn new(world: &World) -> Self {
        let all = places(&[world]);
        let judge = Judge::new(world);
        let row = |from: &Standing| all.iter().map(|to| cell(&judge, 0, from, to)).collect();
        let cells = all.iter().map(row).collect();
        Self { places: all.into_iter().map(|it| it.place).collect(), cells }
    }

    /// The same, with nothing in it but whether `traffic` may pass.
    #[must_use]
    pub fn only(mut self, traffic: Traffic) -> Self {
        for cell in self.cells.iter_mut().flatten().flatten() {
            for openings in [&mut cell.v4, &mut cell.v6].into_iter().flatten() {
                let passes = openings.contain(traffic);
                *openings = if passes { Openings::all() } else { Openings::none() };
            }
        }
        self
    }
}

impl Difference {
    /// What differs in `new` from what `old` allows.
    #[must_use]
    pub fn between(old: &World, new: &World) -> Self {
        let all = places(&[old, new]);
        let judges = [Judge::new(old), Judge::new(new)];
        let mut changes = Vec::new();
        for from in &all {
            for to in &all {
                let (before, after) =
                    (cell(&judges[0], 0, from, to), cell(&judges[1], 1, from, to));
                let (Some(before), Some(after)) = (before, after) else { continue };
                let (opened, closed) = (after.without(&before), before.without(&after));
                if !opened.is_none() || !closed.is_none() {
                    let (from, to) = (from.place.clone(), to.place.clone());
                    changes.push(Change { from, to, opened, closed });
                }
            }
        }
        let missing = |here: &World, there: &World| {
            let pods = here.pods().filter(|pod| pod.is_selectable());
            let missing = pods.filter(|pod| {
                !there.pod(&pod.namespace, &pod.name).is_some_and(|it| it.is_selectable())
            });
            missing.map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect()
        };
        Self { changes, gone: missing(old, new), new: missing(new, old) }
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.gone.is_empty() && self.new.is_empty()
    }
}

/// What may go from one place to another in the world with this number.
fn cell(judge: &Judge<'_>, world: usize, from: &Standing, to: &Standing) -> Option<Cell> {
    if !from.place.is_pods() && !to.place.is_pods() {
        return None;
    }
    let open = |is_v4: bool| {
        let of = |addresses: &[IpAddr]| {
            addresses.iter().copied().find(|address| address.is_ipv4() == is_v4)
        };
        // Within a group, another pod than the first stands for those that are spoken to.
        let other = if std::ptr::eq(from, to) { &to.others[world] } else { &to.addresses[world] };
        Some(judge.openings(of(&from.addresses[world])?, of(other)?))
    };
    let cell = Cell { v4: open(true), v6: open(false) };
    (cell.v4.is_some() || cell.v6.is_some()).then_some(cell)
}

impl Cell {
    /// What passes in every family that both have; none if families differ in it.
    #[must_use]
    pub fn alike(&self) -> Option<&Openings> {
        match (&self.v4, &self.v6) {
            (Some(one), None) | (None, Some(one)) => Some(one),
            (Some(one), Some(other)) if one == other => Some(one),
            (Some(_), Some(_)) | (None, None) => None,
        }
    }

    /// Whether nothing passes.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.v4.as_ref().is_none_or(Openings::is_none)
            && self.v6.as_ref().is_none_or(Openings::is_none)
    }

    fn without(&self, other: &Self) -> Self {
        let minus = |one: &Option<Openings>, other: &Option<Openings>| {
            Some(one.as_ref()?.without(other.as_ref()?))
        };
        Self { v4: minus(&self.v4, &other.v4), v6: minus(&self.v6, &other.v6) }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(openings) = self.alike() {
            return write!(f, "{openings}");
        }
        match (&self.v4, &self.v6) {
            (Some(v4), Some(v6)) => write!(f, "IPv4 {v4} | IPv6 {v6}"),
            (Some(one), None) | (None, Some(one)) => write!(f, "{one}"),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
