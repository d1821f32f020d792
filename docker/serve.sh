# What the images run: an archive, and further options of segdeploy serve. Inside a container all addresses are its own; which of
# them are published, and on which address of the host, is for `docker run -p` or compose.yaml to say.
set -eu
archive=$1
shift
exec segdeploy serve "$archive" --host 0.0.0.0 --metrics-host 0.0.0.0 --token-file /tmp/authorization "$@"
