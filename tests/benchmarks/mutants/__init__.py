"""What the mutation run is made of: the changes, the tests that run a line, and the process that is forked for each."""
