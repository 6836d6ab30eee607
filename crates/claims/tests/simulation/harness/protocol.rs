//! What a table source brings to the simulation.

use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use culvert_claims::{HeldAddress, PodsUnknown, Update};
use ipnet::IpNet;

use super::{Node, Trouble, World};
use crate::random::Random;
use crate::report::Violation;

/// Whether everything holds that must.
pub(crate) type Held = Result<(), Violation>;

/// A table source: the machine of each node, and the store between them.
pub(crate) trait Protocol: Sized {
    /// How long a call may take; the driver's own limit.
    const PATIENCE: Duration;
    /// How long a dead connection goes unnoticed.
    const NOTICED: Duration;
    /// Milliseconds that a slow message takes.
    const SLOW: RangeInclusive<u64>;
    /// Time that nodes may take to have what they need, once there is no trouble and contested
    /// nodes have no pods.
    const RECOVERY: Duration;
    /// What goes wrong, each as often as any other.
    const TROUBLES: &'static [Trouble<Self::Trouble>];

    /// A node's machine, and what is kept beside it.
    type Node;
    /// What a machine asks.
    type Request: Debug;
    /// Who asks, as that node knows itself.
    type Asker;
    /// What a machine is answered, beyond what all are.
    type Answer;
    /// A watch, as the store has it.
    type Watch: Clone;
    /// What a watch tells.
    type Watched;
    /// What happens in the store by itself.
    type Event;
    /// What goes wrong in the store.
    type Trouble: Copy + Debug + 'static;

    /// A store before any node has joined.
    fn new(random: &mut Random) -> Self;
    /// Adds a node with this number.
    fn join(world: &mut World<Self>, number: u64) -> usize;

    /// Makes a new machine of what the node's disk has.
    fn start(&self, node: &mut Node<Self>);
    /// Begins a session.
    fn begin(node: &mut Node<Self>);
    /// What the machine asks next.
    fn request(node: &mut Node<Self>, now: Instant) -> Self::Request;
    /// What the machine tells the daemon next, and whether that must have every node of before.
    fn update(node: &mut Node<Self>) -> Option<(Update, bool)>;
    /// Who does what was asked.
    fn step(world: &mut World<Self>, node: usize, request: Self::Request) -> Step<Self>;
    /// Looks at a node that has nothing to do, before it hears what there is.
    fn check_waiting(_world: &World<Self>, _node: usize) -> Held {
        Ok(())
    }
    /// Tells the machine.
    fn tell(world: &mut World<Self>, node: usize, news: News<Self>);

    /// Who the node is.
    fn asker(node: &Node<Self>) -> Self::Asker;
    /// Does in the store what was asked; none if that is nothing for a store.
    fn serve(world: &mut World<Self>, call: Call<Self>) -> Result<Option<Answer<Self>>, Violation>;
    /// Why the session ends with this answer, if it does.
    fn refusal(_answer: &Answer<Self>) -> Option<&'static str> {
        None
    }
    /// What the watch of a node tells that it has not told yet; it goes on from there.
    fn news(world: &mut World<Self>, node: usize, watch: Self::Watch) -> Vec<Self::Watched>;
    /// Whether the node listens to the watch that tells this.
    fn listens(_node: &Node<Self>, _watched: &Self::Watched) -> bool {
        true
    }
    /// Something happens in the store.
    fn happen(world: &mut World<Self>, event: Self::Event) -> Held;

    /// Something goes wrong in the store, or with the node.
    fn trouble(world: &mut World<Self>, what: Self::Trouble, node: usize, time: Duration) -> Held;
    /// Ends all trouble in the store.
    fn heal(world: &mut World<Self>);
    /// What must hold once trouble is over, before contested nodes are drained.
    fn check_settled(world: &World<Self>) -> Held;
    /// What must hold in the end.
    fn check(world: &World<Self>) -> Held;
    /// How much nodes have written so far.
    fn writes(&self) -> u64;
}

/// What is done next, and by whom.
pub(crate) enum Step<P: Protocol> {
    /// Nothing, until something happens, or this moment comes.
    Wait(Option<Instant>),
    /// The daemon says when it has heard everything.
    Heard,
    /// The node says which addresses pods hold.
    Pods(Vec<IpNet>),
    /// The node itself has this answer, after a moment.
    Own(P::Answer),
    /// The store answers.
    Ask(P::Request),
    /// The session is over.
    End(End),
}

/// How a session ends.
pub(crate) enum End {
    /// The next begins at once.
    Again,
    /// The next begins after a pause.
    Later,
    /// The daemon is told that the store is away.
    Lost(String),
}

/// What a machine is told.
pub(crate) enum News<P: Protocol> {
    Answer(P::Answer),
    Heard(bool),
    Pods(Result<Vec<HeldAddress>, PodsUnknown>),
    Watching(Instant),
    Watched(P::Watched),
    Moved,
    Ready(bool),
    Reload,
}

/// What answers a machine.
pub(crate) enum Answer<P: Protocol> {
    Own(P::Answer),
    Heard,
    Pods(Result<Vec<HeldAddress>, PodsUnknown>),
    Watching,
}

/// A request at the store, whatever became of the session since it was sent.
pub(crate) struct Call<P: Protocol> {
    pub(crate) node: usize,
    pub(crate) session: u64,
    pub(crate) number: u64,
    pub(crate) request: P::Request,
    pub(crate) asker: P::Asker,
}
