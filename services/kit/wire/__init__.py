"""What goes over the wire: the layout of a frame, and the codec that turns frames and messages into bytes and back."""
