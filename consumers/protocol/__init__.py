"""The wire: messages, codes and encodings, without any I/O."""
