"""From shared data to trained weights, one module a stage; `runs/nano.sh` puts them in order."""
