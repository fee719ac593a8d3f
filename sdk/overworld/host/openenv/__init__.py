"""OpenEnv's protocol, HTTP and WebSocket, over the same sessions and workers as gRPC; described in docs/openenv.md."""
