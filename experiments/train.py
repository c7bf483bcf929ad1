"""Table 2 and Figure 4: train networks of depth 200 on real images.

Claim (Lu, Gould, Ajanthan 2023, section 3.2): with a GPN activation and rows of norm one a plain 200-layer network
trains, whatever the activation; without GPN, ReLU, LeakyReLU and GELU don't; batch norm makes gradients explode.

    python -m experiments.train activation=tanh gpn=true dataset=mnist seed=0          one cell
    python -m experiments.train +experiment=table2                                      the table's 48 cells
    python -m experiments.train -m hydra/launcher=stacked activation='glob(*)' gpn=true,false seed=0,1,2    any grid
    python -m experiments.train +experiment=table2 budget=paper time_limit=540          nine minutes of it

Cost: the table's 48 networks under quick 7 minutes on two cores of an Intel Xeon that also did other work.
Output: results/<budget>/runs/<cell>/record.json (see bsnn.results.records) and a W&B run for each cell. A cell that is
already trained is skipped, an interrupted one resumes. hydra/launcher=stacked trains the cells of a grid together,
which is faster; stacked_slurm, stacked_ray and stacked_local send stacks to a cluster, or to processes of their own.
Launchers that give each cell a process (joblib) work too. Exit code: 0, all cells are trained; 1, something failed;
75, the time limit has stopped it and the same command goes on; 130, Ctrl-C; 143, SIGTERM.
"""

from bsnn.launch.entry import run
from bsnn.train import main

if __name__ == "__main__":
    run(main)
