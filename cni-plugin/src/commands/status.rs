//! STATUS: can this node take pods?

use crate::config::Config;
use crate::error::Error;
use culvert_node::readiness::{self, NotReady};

pub(super) fn status(config: &Config) -> Result<(), Error> {
    readiness::check(&config.run_dir, &config.state_dir).map_err(|error| match error {
        NotReady::Unavailable(reason) => Error::Unavailable { reason },
        NotReady::Limited(reason) => Error::Limited { reason },
    })
}
