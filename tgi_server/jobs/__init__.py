"""What the command can do with a configuration: the classes that `conf/job` names, and what they share."""
