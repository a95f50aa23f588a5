"""A prompt in, a `RequestRecord` out; time stamps are taken at the socket."""
