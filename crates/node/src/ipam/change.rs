//! One transaction on the store, and the choice of the next address.
//!
//! A pool is a range as some request described it: a row with `next`, the lowest address that was
//! never handed out. Invariant: every address is unused (≥ `next`), allocated, or resting, even
//! when pools overlap; so no address is ever lost. Each step is a look-up by key.

use std::cell::Cell;
use std::net::IpAddr;
use std::path::Path;

use overlay_proto::Mac;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::address::{from_key, successor, to_key};
use super::error::{Error, Full};
use super::noted::Noted;
use super::range::{Range, Request};
use super::record::{Allocation, Namespace, Record};
use super::stamp::Edition;
use crate::attachment::Attachment;
use crate::pod_mac;

/// Freed addresses that a pool collects before it reuses the oldest instead of a fresh one.
///
/// A /64 has fresh addresses for ever, and without a bound its list of freed ones would grow for
/// ever. 4096 rests an address for several minutes at a thousand pods a minute, and is more than a
/// /24 can hold, so small subnets always use up the fresh ones first.
pub(super) const MAX_RESTING: i64 = 4096;

/// The columns of a [`Record`], in the order of [`parse_record`].
pub(super) const RECORD: &str = "SELECT a.address, p.subnet, p.gateway, a.network, a.container, \
     a.ifname, a.netns, a.netns_inode, a.host_device, a.boot, a.allocated_at, a.mac, a.host_netns \
     FROM allocation a JOIN pool p ON p.id = a.pool";

/// One transaction on the store.
pub(super) struct Change<'a> {
    pub(super) transaction: Transaction<'a>,
    pub(super) path: &'a Path,
    is_complete: Cell<bool>,
}

/// What the store knows about one range.
struct Pool<'a> {
    id: i64,
    range: &'a Range,
    last: IpAddr,
    /// Lowest address that was never handed out.
    next: Option<IpAddr>,
    in_use: i64,
    resting: i64,
}

impl<'a> Change<'a> {
    pub(super) fn new(transaction: Transaction<'a>, path: &'a Path) -> Self {
        Self { transaction, path, is_complete: Cell::new(false) }
    }
}

impl Change<'_> {
    /// Whether the store is known to have every pod whose port bears a note.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete.get()
    }

    pub(super) fn set_complete(&self) {
        self.is_complete.set(true);
    }

    /// What the store is now, with what was changed so far.
    pub(super) fn edition(&self) -> Result<Edition, Error> {
        self.transaction
            .prepare_cached("SELECT store, changes FROM edition")
            .and_then(|mut statement| {
                statement
                    .query_row([], |row| Ok(Edition { store: row.get(0)?, changes: row.get(1)? }))
            })
            .map_err(Error::database("read", self.path))
    }

    /// Gives `attachment` what it asks for, all or nothing, and nothing that is on a port's note.
    pub(super) fn allocate(
        &self,
        attachment: &Attachment,
        netns: &Path,
        request: &Request,
        noted: &mut Noted<'_>,
    ) -> Result<Grant, Error> {
        if let Some(held) = self.records_of(attachment)?.first() {
            return Err(Error::AlreadyAllocated {
                attachment: Box::new(attachment.clone()),
                address: held.allocation.address,
            });
        }
        noted.complete(self)?;
        let mut wanted = request.addresses.clone();
        let (host_netns, boot) = noted.place();
        let netns = Namespace::at(netns);
        let holder = Holder { netns, boot, host_netns, ..Holder::of(attachment) };
        let mut allocations = Vec::new();
        for set in &request.sets {
            let fixed = wanted.iter().position(|address| find(set, *address).is_some());
            let (pool, allocation) = match fixed {
                Some(position) => self.take_fixed(set, wanted.remove(position))?,
                None => self.take_from_any(set)?,
            };
            self.insert(pool, allocation.address, &holder)?;
            allocations.push(allocation);
        }
        if let Some(address) = wanted.first() {
            return Err(Error::NotInRange {
                address: *address,
                ranges: request.sets.iter().flatten().map(ToString::to_string).collect(),
            });
        }
        let mac = self.choose_mac(request.mac, &allocations, noted)?;
        self.set_mac(attachment, mac)?;
        Ok(Grant { allocations, mac })
    }

    /// The MAC address that was asked for, unless somebody has it; or else one that nobody has.
    fn choose_mac(
        &self,
        asked: Option<Mac>,
        allocations: &[Allocation],
        noted: &mut Noted<'_>,
    ) -> Result<Mac, Error> {
        if let Some(mac) = asked {
            let in_store = self.holder_of_mac(mac)?;
            return match in_store.map_or_else(|| noted.holder_of_mac(mac), |it| Ok(Some(it)))? {
                None => Ok(mac),
                Some(holder) => Err(Error::MacTaken { mac: mac.to_string(), holder }),
            };
        }
        // They follow from the addresses, which no device of the node has.
        for mac in pod_mac::candidates(allocations) {
            if self.holder_of_mac(mac)?.is_none() {
                return Ok(mac);
            }
        }
        unreachable!("there are more candidates than pods")
    }

    /// The pod that has `mac` by the store.
    fn holder_of_mac(&self, mac: Mac) -> Result<Option<String>, Error> {
        let found = self
            .transaction
            .prepare_cached("SELECT network, container, ifname FROM allocation WHERE mac = ?1")
            .and_then(|mut statement| statement.query_row([mac.octets()], names).optional())
            .map_err(Error::database("read", self.path))?;
        found.map(|names| Ok(parse_attachment(self.path, &names)?.to_string())).transpose()
    }

    fn set_mac(&self, attachment: &Attachment, mac: Mac) -> Result<usize, Error> {
        let [network, container, ifname] = owner(attachment);
        self.execute(
            "UPDATE allocation SET mac = ?4 WHERE network = ?1 AND container = ?2 AND ifname = ?3",
            params![network, container, ifname, mac.octets()],
        )
    }

    /// Takes an address from the first of `ranges` that has room.
    fn take_from_any(&self, ranges: &[Range]) -> Result<(i64, Allocation), Error> {
        let mut full = Vec::new();
        for range in ranges {
            if let Some(mut pool) = self.pool(range)?
                && let Some(address) = self.take(&mut pool)?
            {
                return Ok((pool.id, allocation(range, address)));
            }
            let in_use = self.pool(range)?.map_or(0, |pool| pool.in_use);
            let in_use = u64::try_from(in_use).unwrap_or(0);
            full.push(Full { subnet: range.subnet(), range: range.narrowed(), in_use });
        }
        Err(Error::Exhausted { full })
    }

    /// Takes `address`, which is in one of `ranges`, or says who has it.
    fn take_fixed(&self, ranges: &[Range], address: IpAddr) -> Result<(i64, Allocation), Error> {
        if let Some(holder) = self.holder(address)? {
            return Err(Error::Taken { address, holder: Box::new(holder) });
        }
        let range = find(ranges, address).expect("the caller has looked");
        Ok((self.place(range, address)?, allocation(range, address)))
    }

    /// The pool of `range`, out of whose free addresses `address` is taken.
    fn place(&self, range: &Range, address: IpAddr) -> Result<i64, Error> {
        let pool = self.pool(range)?.expect("a range that contains an address has bounds");
        self.execute("DELETE FROM resting WHERE address = ?1", [to_key(address)])?;
        Ok(pool.id)
    }

    /// Reads the state of `range`, making its row when it is new; `None` if it has no address at
    /// all.
    fn pool<'a>(&self, range: &'a Range) -> Result<Option<Pool<'a>>, Error> {
        let Some((first, last)) = range.bounds() else {
            return Ok(None);
        };
        let key =
            (range.subnet().to_string(), to_key(first), to_key(last), to_key(range.gateway()));
        let found = self
            .transaction
            .prepare_cached(
                "SELECT id, next, in_use, resting FROM pool \
                 WHERE subnet = ?1 AND first = ?2 AND last = ?3 AND gateway = ?4",
            )
            .and_then(|mut statement| {
                let read = |row: &Row<'_>| {
                    Ok((row.get(0)?, row.get::<_, Option<Vec<u8>>>(1)?, row.get(2)?, row.get(3)?))
                };
                statement.query_row(params![key.0, key.1, key.2, key.3], read).optional()
            })
            .map_err(Error::database("read", self.path))?;
        if let Some((id, next, in_use, resting)) = found {
            let next = next.map(|key| self.address(&key)).transpose()?;
            return Ok(Some(Pool { id, range, last, next, in_use, resting }));
        }
        self.execute(
            "INSERT INTO pool (subnet, first, last, gateway, next) VALUES (?1, ?2, ?3, ?4, ?2)",
            params![key.0, key.1, key.2, key.3],
        )?;
        let id = self.transaction.last_insert_rowid();
        Ok(Some(Pool { id, range, last, next: Some(first), in_use: 0, resting: 0 }))
    }

    /// Takes the next address of `pool`: a fresh one, or the one that has rested longest.
    fn take(&self, pool: &mut Pool<'_>) -> Result<Option<IpAddr>, Error> {
        let mut adopted = false;
        loop {
            let candidate = if pool.next.is_none() || pool.resting >= MAX_RESTING {
                self.take_rested(pool)?
            } else {
                self.take_fresh(pool)?
            };
            match candidate {
                // Another pool that overlaps this one may have given it away: a /24 that became a
                // /23 in the subnet table, a range that was widened.
                Some(address) if self.holder(address)?.is_some() => {}
                Some(address) => return Ok(Some(address)),
                None if pool.next.is_some() => {}
                None if adopted => return Ok(None),
                None => {
                    self.adopt(pool)?;
                    adopted = true;
                }
            }
        }
    }

    /// Takes the lowest address that was never handed out; `None` when that was the gateway, or
    /// when there is none left.
    fn take_fresh(&self, pool: &mut Pool<'_>) -> Result<Option<IpAddr>, Error> {
        let Some(address) = pool.next else {
            return Ok(None);
        };
        pool.next = successor(address).filter(|next| *next <= pool.last);
        self.execute(
            "UPDATE pool SET next = ?1 WHERE id = ?2",
            params![pool.next.map(to_key), pool.id],
        )?;
        if address == pool.range.gateway() {
            return Ok(None);
        }
        // An overlapping pool may have had it before.
        self.execute("DELETE FROM resting WHERE address = ?1", [to_key(address)])?;
        Ok(Some(address))
    }

    fn take_rested(&self, pool: &mut Pool<'_>) -> Result<Option<IpAddr>, Error> {
        let oldest = self
            .transaction
            .prepare_cached(
                "SELECT address FROM resting WHERE pool = ?1 AND address != ?2 \
                 ORDER BY sequence LIMIT 1",
            )
            .and_then(|mut statement| {
                let gateway = to_key(pool.range.gateway());
                statement
                    .query_row(params![pool.id, gateway], |row| row.get::<_, Vec<u8>>(0))
                    .optional()
            })
            .map_err(Error::database("read", self.path))?;
        let Some(key) = oldest else {
            pool.resting = 0;
            return Ok(None);
        };
        self.execute("DELETE FROM resting WHERE address = ?1", [&key])?;
        pool.resting -= 1;
        self.address(&key).map(Some)
    }

    /// Takes over what rests in other pools and is of this range too.
    fn adopt(&self, pool: &mut Pool<'_>) -> Result<(), Error> {
        let Some((first, last)) = pool.range.bounds() else {
            return Ok(());
        };
        let moved = self.execute(
            "UPDATE resting SET pool = ?1 WHERE address BETWEEN ?2 AND ?3 AND pool != ?1",
            params![pool.id, to_key(first), to_key(last)],
        )?;
        pool.resting += i64::try_from(moved).unwrap_or(i64::MAX);
        Ok(())
    }

    /// Who holds `address`.
    pub(super) fn holder(&self, address: IpAddr) -> Result<Option<Attachment>, Error> {
        let found = self
            .transaction
            .prepare_cached("SELECT network, container, ifname FROM allocation WHERE address = ?1")
            .and_then(|mut statement| statement.query_row([to_key(address)], names).optional())
            .map_err(Error::database("read", self.path))?;
        found.map(|names| parse_attachment(self.path, &names)).transpose()
    }

    /// Writes down an address whose place in `range` is known: what was found, not chosen.
    pub(super) fn record(
        &self,
        range: &Range,
        address: IpAddr,
        holder: &Holder<'_>,
    ) -> Result<(), Error> {
        if let Some(holder) = self.holder(address)? {
            return Err(Error::Taken { address, holder: Box::new(holder) });
        }
        self.insert(self.place(range, address)?, address, holder)
    }

    /// Goes on after `address` in `range`, as if what is before it had been used and freed.
    pub(super) fn continue_after(&self, range: &Range, address: IpAddr) -> Result<(), Error> {
        let Some(pool) = self.pool(range)? else {
            return Ok(());
        };
        let mut next = pool.next;
        let mut skipped = 0;
        while let Some(fresh) = next.filter(|fresh| *fresh <= address) {
            skipped += 1;
            if skipped > MAX_RESTING {
                // More than would ever rest: an IPv6 subnet, where fresh ones are never short.
                return Ok(());
            }
            next = successor(fresh).filter(|next| *next <= pool.last);
            if fresh != range.gateway() && self.holder(fresh)?.is_none() {
                self.execute(
                    "INSERT OR IGNORE INTO resting (pool, address) VALUES (?1, ?2)",
                    params![pool.id, to_key(fresh)],
                )?;
            }
        }
        self.execute(
            "UPDATE pool SET next = ?1 WHERE id = ?2",
            params![next.map(to_key), pool.id],
        )?;
        Ok(())
    }

    fn insert(&self, pool: i64, address: IpAddr, holder: &Holder<'_>) -> Result<(), Error> {
        self.execute(
            "INSERT INTO allocation \
             (address, pool, network, container, ifname, netns, netns_inode, host_device, boot, \
             host_netns, mac) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            params![
                to_key(address),
                pool,
                holder.attachment.network(),
                holder.attachment.container(),
                holder.attachment.ifname(),
                holder.netns.path.to_string_lossy(),
                holder.netns.inode.cast_signed(),
                holder.host_device,
                holder.boot,
                holder.host_netns.cast_signed(),
                holder.mac.map(Mac::octets),
            ],
        )
        .map(|_| ())
    }

    pub(super) fn records_of(&self, attachment: &Attachment) -> Result<Vec<Record>, Error> {
        self.query(
            "WHERE a.network = ?1 AND a.container = ?2 AND a.ifname = ?3 ORDER BY a.address",
            owner(attachment),
        )
    }

    /// The records that `condition` chooses.
    pub(super) fn query(
        &self,
        condition: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Vec<Record>, Error> {
        let failed = Error::database("read", self.path);
        let mut statement =
            self.transaction.prepare_cached(&format!("{RECORD} {condition}")).map_err(&failed)?;
        let mut rows = statement.query(parameters).map_err(&failed)?;
        let mut records = Vec::new();
        while let Some(row) = rows.next().map_err(&failed)? {
            records.push(parse_record(self.path, row)?);
        }
        Ok(records)
    }

    /// Frees what `attachment` holds, also under the stand-in that its host device has if its note
    /// had no room for its names.
    pub(super) fn release(&self, attachment: &Attachment) -> Result<usize, Error> {
        let unnamed = Attachment::unnamed(&attachment.host_device());
        let mut freed = 0;
        for held in [attachment, &unnamed] {
            self.execute(
                "INSERT INTO resting (pool, address) SELECT pool, address FROM allocation \
                 WHERE network = ?1 AND container = ?2 AND ifname = ?3 ORDER BY address",
                owner(held),
            )?;
            freed += self.execute(
                "DELETE FROM allocation WHERE network = ?1 AND container = ?2 AND ifname = ?3",
                owner(held),
            )?;
        }
        Ok(freed)
    }

    /// Frees one address, if it is held.
    pub(super) fn release_address(&self, address: IpAddr) -> Result<usize, Error> {
        self.execute(
            "INSERT INTO resting (pool, address) SELECT pool, address FROM allocation \
             WHERE address = ?1",
            [to_key(address)],
        )?;
        self.execute("DELETE FROM allocation WHERE address = ?1", [to_key(address)])
    }

    fn execute(&self, sql: &str, parameters: impl rusqlite::Params) -> Result<usize, Error> {
        self.transaction
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(parameters))
            .map_err(Error::database("change", self.path))
    }

    fn address(&self, key: &[u8]) -> Result<IpAddr, Error> {
        parse_key(self.path, key)
    }
}

/// What an attachment was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The addresses, in the order of the sets that were asked for.
    pub allocations: Vec<Allocation>,
    /// The MAC address.
    pub mac: Mac,
}

/// Who gets an address, and what is known about it.
pub(super) struct Holder<'a> {
    pub(super) attachment: &'a Attachment,
    pub(super) netns: Namespace,
    pub(super) host_device: String,
    pub(super) host_netns: u64,
    pub(super) mac: Option<Mac>,
    pub(super) boot: String,
}

impl<'a> Holder<'a> {
    /// All that follows from the attachment.
    pub(super) fn of(attachment: &'a Attachment) -> Self {
        Self {
            attachment,
            netns: Namespace::default(),
            host_device: attachment.host_device(),
            host_netns: 0,
            mac: None,
            boot: String::new(),
        }
    }
}

fn find(ranges: &[Range], address: IpAddr) -> Option<&Range> {
    ranges.iter().find(|range| range.contains(address))
}

fn allocation(range: &Range, address: IpAddr) -> Allocation {
    Allocation { address, subnet: range.subnet(), gateway: range.gateway() }
}

fn owner(attachment: &Attachment) -> [&str; 3] {
    [attachment.network(), attachment.container(), attachment.ifname()]
}

fn names(row: &Row<'_>) -> rusqlite::Result<[String; 3]> {
    Ok([row.get(0)?, row.get(1)?, row.get(2)?])
}

fn parse_record(path: &Path, row: &Row<'_>) -> Result<Record, Error> {
    let failed = Error::database("read", path);
    let text = |column: usize| row.get::<_, String>(column).map_err(&failed);
    let address: Vec<u8> = row.get(0).map_err(&failed)?;
    let gateway: Vec<u8> = row.get(2).map_err(&failed)?;
    let subnet = text(1)?;
    let subnet =
        subnet.parse().map_err(|_| corrupt(path, format!("it holds the subnet {subnet:?}")))?;
    let inode: i64 = row.get(7).map_err(&failed)?;
    Ok(Record {
        attachment: parse_attachment(path, &[text(3)?, text(4)?, text(5)?])?,
        allocation: Allocation {
            address: parse_key(path, &address)?,
            subnet,
            gateway: parse_key(path, &gateway)?,
        },
        netns: Namespace { path: text(6)?.into(), inode: inode.cast_unsigned() },
        host_device: text(8)?,
        boot: text(9)?,
        allocated_at: row.get(10).map_err(&failed)?,
        mac: row.get::<_, Option<_>>(11).map_err(&failed)?.map(Mac::new),
        host_netns: row.get::<_, i64>(12).map_err(&failed)?.cast_unsigned(),
    })
}

fn parse_attachment(
    path: &Path,
    [network, container, ifname]: &[String; 3],
) -> Result<Attachment, Error> {
    Attachment::new(network, container, ifname)
        .map_err(|error| corrupt(path, format!("it holds a name that {error}")))
}

pub(super) fn parse_key(path: &Path, key: &[u8]) -> Result<IpAddr, Error> {
    from_key(key)
        .ok_or_else(|| corrupt(path, format!("it holds an address of {} bytes", key.len())))
}

pub(super) fn corrupt(path: &Path, what: String) -> Error {
    Error::Corrupt { path: path.to_owned(), what }
}
