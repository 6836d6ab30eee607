//! `culvert ui`: a page in a browser on this machine, of what daemons know of one another.
//!
//! Owns the looking at daemons again and again, and what is made of it ([`model`]), the server that
//! hands it to a browser ([`server`]), and the page. It is a program of its own, which has the
//! rights of whoever runs it: daemons are asked as `culvert status` asks them, and know nothing of
//! it.

mod history;
mod ill;
mod model;
mod server;
mod vantage;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use culvert_dataplane::platform::clock;
use culvert_node::node_file::DEFAULT_RUN_DIR;
use tokio::net::TcpListener;
use tokio::sync::watch;

use self::history::History;
use self::model::Model;
use self::vantage::{Seen, Vantage};
use crate::compose::Project;

/// How long the page shows the same at least.
const PAUSE: Duration = Duration::from_secs(1);

/// What `culvert ui` takes.
#[derive(Debug, Args)]
#[command(after_help = ABOUT)]
pub(crate) struct UiArgs {
    #[command(subcommand)]
    whose: Option<Whose>,
    /// Directory of the admin socket, for this node's daemon.
    #[arg(long, env = "CULVERT_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// TCP port on 127.0.0.1; one of the kernel's choice, unless given.
    #[arg(long, global = true, value_name = "PORT", default_value_t = 0)]
    port: u16,
}

const ABOUT: &str = "\
Prints the address of a page, which shows what this node's daemon knows; or, with a command, what all
daemons of a lab or a cluster know. The page is served on 127.0.0.1 only, for whoever has the whole
address, until the command is ended. From another machine:
  ssh -L 4799:127.0.0.1:4799 NODE -- culvert ui --port 4799";

#[derive(Debug, Subcommand)]
enum Whose {
    /// The daemons of a lab.
    #[cfg(feature = "lab")]
    Lab {
        /// Name of the lab.
        #[arg(long, value_name = "NAME", default_value = culvert_lab::DEFAULT_NAME)]
        name: String,
    },
    /// The daemons of docker-compose.yml.
    Compose(Project),
    /// The daemons of a cluster, by kubectl; of the first 32 nodes.
    Kubernetes {
        /// The namespace of the DaemonSet.
        #[arg(short, long, value_name = "NAME", default_value = "culvert")]
        namespace: String,
        /// The context of the kubeconfig.
        #[arg(long, value_name = "NAME")]
        context: Option<String>,
    },
    /// What `culvert status --json` has printed into files, as long as they change.
    Files {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

/// Serves the page until the program is ended.
///
/// # Errors
///
/// There is nobody to ask, or the port is taken.
pub(crate) fn run(args: &UiArgs) -> anyhow::Result<ExitCode> {
    let (place, vantages) = match &args.whose {
        None => ("this node".to_owned(), vec![Vantage::socket("this node", &args.run_dir)]),
        #[cfg(feature = "lab")]
        Some(Whose::Lab { name }) => (format!("lab {name}"), vantage::of_lab(name)?),
        Some(Whose::Compose(project)) => vantage::of_compose(project)?,
        Some(Whose::Kubernetes { namespace, context }) => {
            ("kubernetes".to_owned(), vantage::of_kubernetes(namespace, context.as_deref())?)
        }
        Some(Whose::Files { files }) => {
            ("files".to_owned(), files.iter().map(|file| Vantage::file(file)).collect())
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(place, vantages, args.port));
    runtime.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}

async fn serve(place: String, vantages: Vec<Vantage>, port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await;
    let listener = listener
        .map_err(|error| anyhow::anyhow!("listening on 127.0.0.1:{port} failed: {error}"))?;
    let token = server::token()?;
    let port = listener.local_addr()?.port();
    let (tell, told) = watch::channel(Arc::new(Model::default()));
    let seen = vantage::watch(vantages)?;
    {
        // In one piece: whoever has read the address may have gone before the rest.
        let said = format!(
            "http://127.0.0.1:{port}/#{token}\n\
             Open it in a browser on this machine; Ctrl-C ends it.\n"
        );
        let mut out = io::stdout().lock();
        out.write_all(said.as_bytes())?;
        out.flush()?;
    }
    tokio::select! {
        served = server::serve(listener, port, token, told) => served,
        never = keep_up(&place, seen, &tell) => never,
    }
}

/// Makes the model anew whenever something was seen.
async fn keep_up(
    place: &str,
    mut seen: watch::Receiver<Vec<Seen>>,
    tell: &watch::Sender<Arc<Model>>,
) -> anyhow::Result<()> {
    let mut history = History::default();
    loop {
        let now = clock::unix_nanos() / 1_000_000_000;
        let model = {
            let seen = seen.borrow_and_update();
            history.take(&seen, now);
            Model::of(place, &seen, &history)
        };
        tell.send_if_modified(|before| {
            let is_news = **before != model;
            *before = Arc::new(model);
            is_news
        });
        // Many daemons are seen many times a second.
        tokio::time::sleep(PAUSE).await;
        seen.changed().await?;
    }
}
