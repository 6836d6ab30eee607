//! The claim to be a network namespace's only daemon.

use std::io::ErrorKind;
use std::time::Duration;

use culvert::platform::claim::Claim;

use crate::node::{Namespace, run};

#[test]
fn a_claim_is_held_until_its_holder_is_gone() {
    Namespace::new("claim").run(async || {
        assert!(Claim::may_be_free());
        assert_eq!(Claim::holder(), None);
        let first = Claim::take("the first").unwrap();
        assert!(!Claim::may_be_free());
        assert_eq!(Claim::holder().as_deref(), Some("the first"));
        let refused = Claim::take("the second").err().unwrap();
        assert_eq!(refused.cause.kind(), ErrorKind::AddrInUse);
        // Nobody else can let it go.
        run("nft flush ruleset");
        assert!(!Claim::may_be_free());
        drop(first);
        // A program that another test starts at this moment may have it for as long as it starts.
        let is_free = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            Claim::may_be_free()
        });
        assert!(is_free);
        // The kernel has room for some 250 bytes of what a holder says.
        let long = "ä".repeat(1000);
        let _again = Claim::take(&long).unwrap();
        assert_eq!(Claim::holder(), Some("ä".repeat(126)));
    });
}

#[test]
fn namespaces_have_claims_of_their_own() {
    let (here, there) = (Namespace::new("claim-here"), Namespace::new("claim-there"));
    for namespace in [&here, &there] {
        // Held for as long as the test runs.
        namespace.run(async || std::mem::forget(Claim::take("a daemon").unwrap()));
    }
}
