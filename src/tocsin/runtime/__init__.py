"""The only room with clocks, threads, sockets and files: executes the effects that the machines ask for."""
