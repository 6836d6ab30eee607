//! The node file that the plugin reads: what is taken is written back as the same.

use culvert_node::node_file::{NodeFile, gateway};

pub(crate) fn run(input: &[u8]) {
    let Ok(file) = serde_json::from_slice::<NodeFile>(input) else { return };
    for subnet in &file.subnets {
        assert_eq!(gateway(subnet).prefix_len(), subnet.prefix_len());
    }
    let text = serde_json::to_vec(&file).expect("plain values only");
    assert_eq!(serde_json::from_slice::<NodeFile>(&text).expect("we wrote it"), file);
}
