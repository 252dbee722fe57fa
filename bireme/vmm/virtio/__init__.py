"""Virtio devices (VIRTIO 1.2): the transport in the VMM's main process, the data paths in processes of their own."""
