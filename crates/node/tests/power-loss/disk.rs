//! What may be on the disk when the power goes.
//!
//! A flush makes certain what was written to that file before. Of what was written since, any part
//! may have come to the disk and any other not, in any order, down to single sectors. Names change
//! in order, as file systems with a journal have it, and are certain when the directory is flushed.

use std::collections::BTreeMap;

use crate::tape::{Event, FileId};

/// The least that a disk writes at once.
const SECTOR: usize = 512;

/// Files of the directory by name.
pub(crate) type Image = BTreeMap<String, Vec<u8>>;

/// How a power cut treats what nobody has flushed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Luck {
    /// All of it is there.
    Good,
    /// Nothing of it is.
    Bad,
    /// Some of it is: as the seed has it.
    Mixed(u64),
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    files: BTreeMap<FileId, Content>,
    names: BTreeMap<String, FileId>,
    unflushed_names: Vec<Event>,
}

#[derive(Debug, Default)]
struct Content {
    flushed: Vec<u8>,
    unflushed: Vec<Event>,
}

impl Disk {
    pub(crate) fn take(&mut self, event: &Event) {
        match event {
            Event::Create { .. } | Event::Rename { .. } | Event::Remove { .. } => {
                self.unflushed_names.push(event.clone());
            }
            Event::Write { file, .. } | Event::Cut { file, .. } => {
                self.files.entry(*file).or_default().unflushed.push(event.clone());
            }
            Event::Flush { file } => {
                let content = self.files.entry(*file).or_default();
                let Content { flushed, unflushed } = content;
                unflushed.drain(..).for_each(|event| change(flushed, &event, &mut |_| true));
            }
            Event::FlushDirectory => {
                let Self { names, unflushed_names, .. } = self;
                unflushed_names.drain(..).for_each(|event| change_names(names, &event));
            }
            Event::Answer => {}
        }
    }

    /// What is found after a power cut at this moment.
    pub(crate) fn after_cut(&self, luck: Luck) -> Image {
        let mut random = Random(match luck {
            Luck::Good | Luck::Bad => 0,
            Luck::Mixed(seed) => seed,
        });
        let mut names = self.names.clone();
        let changes = self.unflushed_names.len();
        let kept = match luck {
            Luck::Good => changes,
            Luck::Bad => 0,
            Luck::Mixed(_) => random.below(changes + 1),
        };
        self.unflushed_names[..kept].iter().for_each(|event| change_names(&mut names, event));
        let content = |file: FileId| {
            let Some(content) = self.files.get(&file) else { return Vec::new() };
            let mut bytes = content.flushed.clone();
            for event in &content.unflushed {
                // One of three writes comes whole, one not at all, one in part.
                let fate = random.below(3);
                change(&mut bytes, event, &mut |_| match luck {
                    Luck::Good => true,
                    Luck::Bad => false,
                    Luck::Mixed(_) => fate == 0 || fate == 1 && random.below(2) == 0,
                });
            }
            bytes
        };
        let mut content = content;
        names.into_iter().map(|(name, file)| (name, content(file))).collect()
    }
}

fn change_names(names: &mut BTreeMap<String, FileId>, event: &Event) {
    match event {
        Event::Create { file, name } => {
            names.insert(name.clone(), *file);
        }
        Event::Rename { from, to } => {
            let file = names.remove(from).expect("what is renamed is there");
            names.insert(to.clone(), file);
        }
        Event::Remove { name } => {
            names.remove(name);
        }
        Event::Write { .. }
        | Event::Cut { .. }
        | Event::Flush { .. }
        | Event::FlushDirectory
        | Event::Answer => unreachable!("{event:?} changes no name"),
    }
}

/// Changes the sectors of `content` that `arrives` says yes to.
fn change(content: &mut Vec<u8>, event: &Event, arrives: &mut dyn FnMut(usize) -> bool) {
    match event {
        Event::Write { at, bytes, .. } => {
            let mut done = 0;
            while done < bytes.len() {
                let start = at + done;
                let end = (start / SECTOR + 1) * SECTOR;
                let length = (end - start).min(bytes.len() - done);
                if arrives(start / SECTOR) {
                    content.resize(content.len().max(start + length), 0);
                    content[start..start + length].copy_from_slice(&bytes[done..done + length]);
                }
                done += length;
            }
        }
        Event::Cut { length, .. } => {
            if arrives(length / SECTOR) {
                content.resize(*length, 0);
            }
        }
        Event::Create { .. }
        | Event::Flush { .. }
        | Event::Rename { .. }
        | Event::Remove { .. }
        | Event::FlushDirectory
        | Event::Answer => unreachable!("{event:?} changes no content"),
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}
