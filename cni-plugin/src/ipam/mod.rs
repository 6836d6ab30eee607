//! Which attachment has which address.
//!
//! Owns the record of allocations of this node, kept in one SQLite file under `<stateDir>/ipam/`,
//! and the choice of the next address. Never touches network devices and never asks the daemon. Any
//! number of processes may use the store at once: every change is one transaction, so a process that
//! is killed leaves the state before it or after it. A process that finds the store locked waits for
//! its turn, and gives up after [`BUSY_TIMEOUT`].
//!
//! An address that was never used comes before one that was, and of those that were, the one that
//! was freed first; so an address rests as long as it can before another pod gets it. Each step is a
//! look-up by key, so the cost does not grow with the number of pods.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use thiserror::Error;

use crate::attachment::Attachment;
use crate::node_file;

use self::address::{from_key, successor, to_key};

mod address;
mod range;
mod schema;
#[cfg(test)]
mod tests;

pub use self::range::Range;
pub use self::schema::{BUSY_TIMEOUT, DATABASE, DIRECTORY};

/// Freed addresses that a subnet collects before it reuses the oldest instead of a fresh one.
///
/// A /64 has fresh addresses for ever, and without a bound its list of freed ones would grow for
/// ever. 4096 rests an address for several minutes at a thousand pods a minute, and is more than a
/// /24 can hold, so small subnets always use up the fresh ones first.
const MAX_RESTING: i64 = 4096;

/// An address that an attachment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The pod's address.
    pub address: IpAddr,
    /// The node's subnet that it was taken from.
    pub subnet: IpNet,
}

impl Allocation {
    /// The address together with the subnet's prefix length, as an interface carries it.
    #[must_use]
    pub fn interface_address(&self) -> IpNet {
        IpNet::new_assert(self.address, self.subnet.prefix_len())
    }

    /// The pod's default gateway: the bridge's address in the same subnet.
    #[must_use]
    pub fn gateway(&self) -> IpAddr {
        node_file::gateway(&self.subnet).addr()
    }
}

/// An allocation with everything the store knows about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds the address.
    pub attachment: Attachment,
    /// The address and its subnet.
    pub allocation: Allocation,
    /// Path of the pod's network namespace at the time of ADD.
    pub netns: PathBuf,
    /// When the address was handed out, in seconds since 1970.
    pub allocated_at: i64,
}

/// Why the store could not do what it was asked.
#[derive(Debug, Error)]
pub enum Error {
    /// The node has no subnet to take addresses from.
    #[error("this node has no pod subnet: add one to its entry in the subnet table")]
    NoSubnet,
    /// Every subnet of one family is full.
    #[error(
        "no free pod address in {}: add a subnet to this node's entry in the subnet table, or delete \
         pods",
        describe_full(.subnets)
    )]
    Exhausted {
        /// The subnets and how many addresses of each are in use.
        subnets: Vec<(IpNet, u64)>,
    },
    /// The attachment has an address already.
    #[error("{attachment} has address {address} already: call DEL before another ADD")]
    AlreadyAllocated {
        /// Who asked twice.
        attachment: Box<Attachment>,
        /// What it has.
        address: IpAddr,
    },
    /// An address that was asked for is somebody's already.
    #[error("address {address} belongs to {holder}: ask for another, or delete that pod first")]
    Taken {
        /// What was asked for.
        address: IpAddr,
        /// Who has it.
        holder: Box<Attachment>,
    },
    /// An address that was asked for is in none of the ranges, or its range gives one already.
    #[error(
        "address {address} was asked for, but the pod gets one address of each of {ranges}: ask for \
         one that is in a range of its own"
    )]
    NotOffered {
        /// What was asked for.
        address: IpAddr,
        /// The ranges, for the message.
        ranges: String,
    },
    /// The directory or the empty file could not be made.
    #[error("cannot {op} {path}: check that config key stateDir names a writable directory")]
    Directory {
        /// What was attempted.
        op: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error(
        "cannot {op} the address store {path}. If it is damaged, drain the node and remove the file"
    )]
    Database {
        /// What was attempted.
        op: &'static str,
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file belongs to another version or another program.
    #[error(
        "the address store {path} has schema {found}, this plugin knows {known}: install the \
         culvert-cni that wrote it"
    )]
    UnknownSchema {
        /// The database file.
        path: PathBuf,
        /// Its `user_version`.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// A row cannot be what this program wrote.
    #[error("the address store {path} holds {what}: drain the node and remove the file")]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
}

fn describe_full(subnets: &[(IpNet, u64)]) -> String {
    let each = subnets.iter().map(|(subnet, in_use)| format!("{subnet} ({in_use} in use)"));
    each.collect::<Vec<_>>().join(" or ")
}

/// The open store.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens the store under `state_dir`, or says `None` if none was made yet.
    ///
    /// # Errors
    ///
    /// A file that cannot be opened or is not ours.
    pub fn open(state_dir: &Path) -> Result<Option<Self>, Error> {
        schema::open(state_dir)
    }

    /// Opens the store under `state_dir`, making it first if there is none.
    ///
    /// # Errors
    ///
    /// A file that cannot be opened, made or is not ours.
    pub fn open_or_create(state_dir: &Path) -> Result<Self, Error> {
        schema::open_or_create(state_dir)
    }

    /// Hands out one address for each family that `subnets` has, in the order of first appearance.
    ///
    /// Of several subnets of one family the first with room gives the address. All addresses are
    /// handed out, or none.
    ///
    /// # Errors
    ///
    /// No subnet, no room, an attachment that has addresses already, or an unusable store.
    pub fn allocate(
        &mut self,
        attachment: &Attachment,
        netns: &Path,
        subnets: &[IpNet],
    ) -> Result<Vec<Allocation>, Error> {
        self.allocate_from(attachment, netns, &Range::by_family(subnets), &[])
    }

    /// Hands out one address of each of `sets`: one of `wanted` where that is in the set, or else one
    /// of the first range with room.
    ///
    /// All addresses are handed out, or none.
    ///
    /// # Errors
    ///
    /// No set, no room, an address of `wanted` that is taken or in no set that is left, an attachment
    /// that has addresses already, or an unusable store.
    pub fn allocate_from(
        &mut self,
        attachment: &Attachment,
        netns: &Path,
        sets: &[Vec<Range>],
        wanted: &[IpAddr],
    ) -> Result<Vec<Allocation>, Error> {
        if sets.is_empty() {
            return Err(Error::NoSubnet);
        }
        self.change("allocate in", |change| {
            if let Some(held) = change.allocations_of(attachment)?.first() {
                return Err(Error::AlreadyAllocated {
                    attachment: Box::new(attachment.clone()),
                    address: held.address,
                });
            }
            let mut wanted = wanted.to_vec();
            let mut allocations = Vec::new();
            for set in sets {
                let holds = |address: &IpAddr| set.iter().any(|range| range.contains(*address));
                let allocation = match wanted.iter().position(holds) {
                    Some(place) => change.take_wanted(wanted.remove(place), set)?,
                    None => change.take_from_any(set)?,
                };
                change.insert(attachment, netns, &allocation)?;
                allocations.push(allocation);
            }
            match wanted.first() {
                Some(address) => {
                    Err(Error::NotOffered { address: *address, ranges: describe_sets(sets) })
                }
                None => Ok(allocations),
            }
        })
    }

    /// Frees the addresses of every attachment of `network` that is not in `valid`, a list of
    /// container ids and interfaces, and says whose they were.
    ///
    /// # Errors
    ///
    /// An unusable store.
    pub fn release_except(
        &mut self,
        network: &str,
        valid: &[(String, String)],
    ) -> Result<Vec<Attachment>, Error> {
        let valid: HashSet<(&str, &str)> =
            valid.iter().map(|(container, ifname)| (&**container, &**ifname)).collect();
        let mut stale: Vec<Attachment> = self
            .records()?
            .into_iter()
            .map(|record| record.attachment)
            .filter(|held| held.network() == network)
            .filter(|held| !valid.contains(&(held.container(), held.ifname())))
            .collect();
        stale.dedup();
        self.change("release in", |change| {
            for attachment in &stale {
                change.release(attachment)?;
            }
            Ok(())
        })?;
        Ok(stale)
    }

    /// Frees every address of `attachment` and says how many there were.
    ///
    /// # Errors
    ///
    /// An unusable store. That there is nothing to free is no error.
    pub fn release(&mut self, attachment: &Attachment) -> Result<usize, Error> {
        self.change("release in", |change| change.release(attachment))
    }

    /// The addresses of `attachment`, IPv4 first.
    ///
    /// # Errors
    ///
    /// An unusable store.
    pub fn allocations_of(&mut self, attachment: &Attachment) -> Result<Vec<Allocation>, Error> {
        let path = &self.path;
        let read = TransactionBehavior::Deferred;
        let transaction =
            self.connection.transaction_with_behavior(read).map_err(database("read", path))?;
        Change { transaction, path }.allocations_of(attachment)
    }

    /// Everything in the store, sorted by family and address.
    ///
    /// # Errors
    ///
    /// An unusable store.
    pub fn records(&self) -> Result<Vec<Record>, Error> {
        let failed = database("read", &self.path);
        let mut statement = self
            .connection
            .prepare(
                "SELECT a.address, s.prefix, a.network, a.container, a.ifname, a.netns, \
                 a.allocated_at FROM allocation a JOIN subnet s ON s.id = a.subnet ORDER BY a.address",
            )
            .map_err(&failed)?;
        let mut rows = statement.query([]).map_err(&failed)?;
        let mut records = Vec::new();
        while let Some(row) = rows.next().map_err(&failed)? {
            let text = |column: usize| row.get::<_, String>(column).map_err(&failed);
            let key: Vec<u8> = row.get(0).map_err(&failed)?;
            let attachment = Attachment::new(&text(2)?, &text(3)?, &text(4)?)
                .map_err(|error| corrupt(&self.path, format!("a name that {error}")))?;
            records.push(Record {
                attachment,
                allocation: parse_allocation(&self.path, &key, &text(1)?)?,
                netns: text(5)?.into(),
                allocated_at: row.get(6).map_err(&failed)?,
            });
        }
        Ok(records)
    }

    /// Runs `work` in one transaction that holds the write lock from its first statement.
    ///
    /// A deferred transaction would read first and could then fail to upgrade, which no waiting cures.
    fn change<T>(
        &mut self,
        op: &'static str,
        work: impl FnOnce(&Change<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let value = {
            let path = &self.path;
            let transaction = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(database(op, path))?;
            let change = Change { transaction, path };
            let value = work(&change)?;
            change.transaction.commit().map_err(database(op, path))?;
            value
        };
        schema::fold_long_log(self);
        Ok(value)
    }
}

/// One transaction on the store.
struct Change<'a> {
    transaction: Transaction<'a>,
    path: &'a Path,
}

impl Change<'_> {
    fn allocations_of(&self, attachment: &Attachment) -> Result<Vec<Allocation>, Error> {
        let failed = database("read", self.path);
        let mut statement = self
            .transaction
            .prepare_cached(
                "SELECT a.address, s.prefix FROM allocation a JOIN subnet s ON s.id = a.subnet \
                 WHERE a.network = ?1 AND a.container = ?2 AND a.ifname = ?3 ORDER BY a.address",
            )
            .map_err(&failed)?;
        let mut rows = statement.query(owner(attachment)).map_err(&failed)?;
        let mut allocations = Vec::new();
        while let Some(row) = rows.next().map_err(&failed)? {
            let key: Vec<u8> = row.get(0).map_err(&failed)?;
            let prefix: String = row.get(1).map_err(&failed)?;
            allocations.push(parse_allocation(self.path, &key, &prefix)?);
        }
        Ok(allocations)
    }

    /// Takes an address from the first of `ranges` that has room.
    fn take_from_any(&self, ranges: &[Range]) -> Result<Allocation, Error> {
        let mut full = Vec::new();
        for range in ranges {
            let subnet = range.subnet;
            let mut pool = self.pool(subnet)?;
            let taken = match range.bounds {
                None => self.take(&mut pool)?,
                Some((first, last)) => self.take_between(&pool, first, last)?,
            };
            if let Some(address) = taken {
                return Ok(Allocation { address, subnet });
            }
            full.push((subnet, u64::try_from(pool.in_use).unwrap_or(0)));
        }
        Err(Error::Exhausted { subnets: full })
    }

    /// Takes `address`, which is in one of `ranges`.
    fn take_wanted(&self, address: IpAddr, ranges: &[Range]) -> Result<Allocation, Error> {
        let range = ranges.iter().find(|range| range.contains(address));
        let Some(Range { subnet, .. }) = range.copied() else {
            return Err(Error::NotOffered { address, ranges: describe_sets(&[ranges.to_vec()]) });
        };
        if let Some(holder) = self.holder(address)? {
            return Err(Error::Taken { address, holder: Box::new(holder) });
        }
        // Its row is what the allocation refers to.
        self.pool(subnet)?;
        self.execute("DELETE FROM resting WHERE address = ?1", [to_key(address)])?;
        Ok(Allocation { address, subnet })
    }

    /// Takes the first address between `first` and `last` that is neither held nor resting, or else
    /// the one that has rested longest.
    fn take_between(
        &self,
        pool: &Pool,
        first: IpAddr,
        last: IpAddr,
    ) -> Result<Option<IpAddr>, Error> {
        let whole = Range::whole(pool.subnet);
        let mut candidate = Some(first);
        while let Some(address) = candidate.filter(|address| *address <= last) {
            let is_used = self.is_held(address)? || self.is_resting(address)?;
            if !is_used && whole.contains(address) {
                return Ok(Some(address));
            }
            candidate = successor(address);
        }
        let oldest = self
            .transaction
            .prepare_cached(
                "SELECT address FROM resting WHERE subnet = ?1 AND address BETWEEN ?2 AND ?3 \
                 ORDER BY sequence LIMIT 1",
            )
            .and_then(|mut statement| {
                let range = params![pool.id, to_key(first), to_key(last)];
                statement.query_row(range, |row| row.get::<_, Vec<u8>>(0)).optional()
            })
            .map_err(database("read", self.path))?;
        let Some(key) = oldest else {
            return Ok(None);
        };
        self.execute("DELETE FROM resting WHERE address = ?1", [&key])?;
        parse_key(self.path, &key).map(Some)
    }

    fn is_resting(&self, address: IpAddr) -> Result<bool, Error> {
        self.transaction
            .prepare_cached("SELECT 1 FROM resting WHERE address = ?1")
            .and_then(|mut statement| statement.exists([to_key(address)]))
            .map_err(database("read", self.path))
    }

    /// Who has `address`.
    fn holder(&self, address: IpAddr) -> Result<Option<Attachment>, Error> {
        let names = self
            .transaction
            .prepare_cached("SELECT network, container, ifname FROM allocation WHERE address = ?1")
            .and_then(|mut statement| {
                let read = |row: &rusqlite::Row<'_>| {
                    Ok([row.get::<_, String>(0)?, row.get(1)?, row.get(2)?])
                };
                statement.query_row([to_key(address)], read).optional()
            })
            .map_err(database("read", self.path))?;
        names
            .map(|[network, container, ifname]| {
                Attachment::new(&network, &container, &ifname)
                    .map_err(|error| corrupt(self.path, format!("a name that {error}")))
            })
            .transpose()
    }

    /// Reads the state of `subnet`, making its row when the subnet is new.
    fn pool(&self, subnet: IpNet) -> Result<Pool, Error> {
        let prefix = subnet.trunc().to_string();
        let found = self
            .transaction
            .prepare_cached("SELECT id, next, in_use, resting FROM subnet WHERE prefix = ?1")
            .and_then(|mut statement| {
                let read = |row: &rusqlite::Row<'_>| {
                    Ok((row.get(0)?, row.get::<_, Option<Vec<u8>>>(1)?, row.get(2)?, row.get(3)?))
                };
                statement.query_row([&prefix], read).optional()
            })
            .map_err(database("read", self.path))?;
        if let Some((id, next, in_use, resting)) = found {
            let next = next.map(|key| parse_key(self.path, &key)).transpose()?;
            return Ok(Pool { id, subnet, next, in_use, resting });
        }
        let next = address::first(&subnet);
        self.transaction
            .execute(
                "INSERT INTO subnet (prefix, next) VALUES (?1, ?2)",
                params![prefix, next.map(to_key)],
            )
            .map_err(database("add a subnet to", self.path))?;
        Ok(Pool { id: self.transaction.last_insert_rowid(), subnet, next, in_use: 0, resting: 0 })
    }

    /// Takes the next address of `pool`: a fresh one, or the one that has rested longest.
    fn take(&self, pool: &mut Pool) -> Result<Option<IpAddr>, Error> {
        loop {
            let rested = pool.next.is_none() || pool.resting >= MAX_RESTING;
            let candidate = if rested { self.take_rested(pool)? } else { self.take_fresh(pool)? };
            let Some(address) = candidate else {
                return Ok(None);
            };
            // Another subnet of this node that overlaps this one may have given it away: a /24 that
            // became a /23 in the subnet table.
            if !self.is_held(address)? {
                return Ok(Some(address));
            }
        }
    }

    fn take_fresh(&self, pool: &mut Pool) -> Result<Option<IpAddr>, Error> {
        let Some(address) = pool.next else {
            return Ok(None);
        };
        pool.next = successor(address).filter(|next| *next <= address::last(&pool.subnet));
        self.execute(
            "UPDATE subnet SET next = ?1 WHERE id = ?2",
            params![pool.next.map(to_key), pool.id],
        )?;
        // An overlapping subnet may have had it before.
        self.execute("DELETE FROM resting WHERE address = ?1", [to_key(address)])?;
        Ok(Some(address))
    }

    fn take_rested(&self, pool: &mut Pool) -> Result<Option<IpAddr>, Error> {
        let oldest = self
            .transaction
            .prepare_cached(
                "SELECT address FROM resting WHERE subnet = ?1 ORDER BY sequence LIMIT 1",
            )
            .and_then(|mut statement| {
                statement.query_row([pool.id], |row| row.get::<_, Vec<u8>>(0)).optional()
            })
            .map_err(database("read", self.path))?;
        let Some(key) = oldest else {
            return Ok(None);
        };
        self.execute("DELETE FROM resting WHERE address = ?1", [&key])?;
        pool.resting -= 1;
        parse_key(self.path, &key).map(Some)
    }

    fn is_held(&self, address: IpAddr) -> Result<bool, Error> {
        self.transaction
            .prepare_cached("SELECT 1 FROM allocation WHERE address = ?1")
            .and_then(|mut statement| statement.exists([to_key(address)]))
            .map_err(database("read", self.path))
    }

    fn insert(
        &self,
        attachment: &Attachment,
        netns: &Path,
        allocation: &Allocation,
    ) -> Result<(), Error> {
        self.execute(
            "INSERT INTO allocation (address, subnet, network, container, ifname, netns) \
             SELECT ?1, id, ?3, ?4, ?5, ?6 FROM subnet WHERE prefix = ?2",
            params![
                to_key(allocation.address),
                allocation.subnet.trunc().to_string(),
                attachment.network(),
                attachment.container(),
                attachment.ifname(),
                netns.to_string_lossy(),
            ],
        )
        .map(|_| ())
    }

    fn release(&self, attachment: &Attachment) -> Result<usize, Error> {
        self.execute(
            "INSERT INTO resting (subnet, address) SELECT subnet, address FROM allocation \
             WHERE network = ?1 AND container = ?2 AND ifname = ?3 ORDER BY address",
            owner(attachment),
        )?;
        self.execute(
            "DELETE FROM allocation WHERE network = ?1 AND container = ?2 AND ifname = ?3",
            owner(attachment),
        )
    }

    fn execute(&self, sql: &str, parameters: impl rusqlite::Params) -> Result<usize, Error> {
        self.transaction
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(parameters))
            .map_err(database("change", self.path))
    }
}

/// What the store knows about one subnet.
struct Pool {
    id: i64,
    subnet: IpNet,
    /// Lowest address that was never handed out.
    next: Option<IpAddr>,
    in_use: i64,
    resting: i64,
}

fn describe_sets(sets: &[Vec<Range>]) -> String {
    let describe = |range: &Range| match range.bounds {
        None => range.subnet.to_string(),
        Some((first, last)) => format!("{first} to {last}"),
    };
    let sets = sets.iter().map(|set| set.iter().map(describe).collect::<Vec<_>>().join(" or "));
    sets.collect::<Vec<_>>().join(", ")
}

fn owner(attachment: &Attachment) -> [&str; 3] {
    [attachment.network(), attachment.container(), attachment.ifname()]
}

fn parse_key(path: &Path, key: &[u8]) -> Result<IpAddr, Error> {
    from_key(key).ok_or_else(|| corrupt(path, format!("an address of {} bytes", key.len())))
}

fn parse_allocation(path: &Path, key: &[u8], prefix: &str) -> Result<Allocation, Error> {
    let address = parse_key(path, key)?;
    match prefix.parse() {
        Ok(subnet) => Ok(Allocation { address, subnet }),
        Err(_) => Err(corrupt(path, format!("the subnet {prefix:?}"))),
    }
}

fn corrupt(path: &Path, what: String) -> Error {
    Error::Corrupt { path: path.to_owned(), what }
}

/// Names the attempt and the file of a failure of SQLite.
fn database(op: &'static str, path: &Path) -> impl Fn(rusqlite::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Database { op, path: path.clone(), source }
}
