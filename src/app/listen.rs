//! The port of metrics and health: had at once, or as soon as whoever has it lets it go.
//!
//! Owns opening it, and saying that it is not open. Runs as a task of the control runtime. Nothing
//! that carries packets waits for it, and nobody who takes the port first ends the daemon by that.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::sleep;

/// How long to wait before the port is tried again: shorter than probes take to give a node up.
const PAUSE: Duration = Duration::from_secs(2);

/// Opens `address`, however long that takes; `tell` gets what is wrong, and nothing once it is well
/// again.
pub(super) async fn listen(
    address: SocketAddr,
    mut tell: impl FnMut(Option<String>),
) -> TcpListener {
    let mut is_told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                if is_told {
                    tracing::info!(%address, "metrics and health are served");
                    tell(None);
                }
                return listener;
            }
            Err(error) if is_told => tracing::debug!(%address, %error, "still not to be had"),
            Err(error) => {
                is_told = true;
                tracing::warn!(
                    %address,
                    %error,
                    "metrics and health are not served; trying again. End the program that has the \
                     port, choose an address of this machine by observe.address, or \"off\""
                );
                tell(Some(format!(
                    "metrics and health are not served: observe.address {address} cannot be had \
                     ({error}); it is tried again every {} seconds. Look with ss -ltnp who has it, or \
                     choose another address",
                    PAUSE.as_secs()
                )));
            }
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn port_that_another_program_has_is_told_of_and_had_once_it_is_free() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let (told, hear) = mpsc::channel();
        let listening = tokio::spawn(listen(address, move |fault| told.send(fault).unwrap()));
        let fault = loop {
            match hear.try_recv() {
                Ok(fault) => break fault.unwrap(),
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert!(fault.contains(&address.to_string()), "{fault}");
        assert!(!listening.is_finished(), "it goes on trying");
        drop(other);
        let listener = listening.await.unwrap();
        assert_eq!(listener.local_addr().unwrap(), address);
        assert_eq!(hear.iter().collect::<Vec<_>>(), [None], "said once, and taken back");
    }
}
