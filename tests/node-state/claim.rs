//! The claim to be a network namespace's only daemon.

use std::io::ErrorKind;
use std::time::Duration;

use culvert::platform::claim::Claim;

use crate::node::{Namespace, run};

#[test]
fn a_name_is_held_until_its_holder_is_gone() {
    Namespace::new("claim").run(async || {
        assert!(Claim::may_be_free("culvert0"));
        let first = Claim::take("culvert0").unwrap();
        assert!(!Claim::may_be_free("culvert0"));
        let refused = Claim::take("culvert0").err().unwrap();
        assert_eq!(refused.cause.kind(), ErrorKind::AddrInUse);
        let _other = Claim::take("culvert1").unwrap();
        // Nobody else can let it go.
        run("nft flush ruleset");
        assert!(!Claim::may_be_free("culvert0"));
        drop(first);
        // A program that another test starts at this moment may have it for as long as it starts.
        let is_free = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            Claim::may_be_free("culvert0")
        });
        assert!(is_free);
        let _again = Claim::take("culvert0").unwrap();
    });
}

#[test]
fn namespaces_have_names_of_their_own() {
    let (here, there) = (Namespace::new("claim-here"), Namespace::new("claim-there"));
    for namespace in [&here, &there] {
        // Held for as long as the test runs.
        namespace.run(async || std::mem::forget(Claim::take("culvert0").unwrap()));
    }
}
