"""What `make demo` runs: seven weeks of real flights, and the incidents that are in them."""
