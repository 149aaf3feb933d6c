"""Images on disk to batches on the machine.

`config` holds the settings, `layouts` finds the files, `verify` decodes them once, `transforms`
cuts views out of them, `datasets` and `loading` make batches; `check` reports on a folder,
`catalogue` and `download` fetch public sets, `toy` renders one. Nothing is imported here: the
command line reads `config` without waiting for torch.
"""
