/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The truth about passes: the definition of each cell, step by step, in float64 and nothing else; gradients by the chain
 * rule.
 */
#ifndef ORACLE_H
#define ORACLE_H
#include "graph.h"
#include "problem.h"

typedef struct oracle_pass {
    graph g;
    var weights[MOST_CELLS][FL_PARAMETER_COUNT];
    var x, h0, c0;  /* x (T, B, I); states as of a call */
    var *y, *cells; /* (T, B, D*P) and (T, B, D*H); of steps that there are */
    var *h_n, *c_n;
} oracle_pass;

/* `recorded`: with resets, dropout, truncation and what the cell draws; `single`: in float32. */
void oracle_run(oracle_pass *o, const problem *p, bool recorded, bool single);
void oracle_release(oracle_pass *o);

/* Expect the results of a call to be right; and those of a recorded pass with its gradients. */
void expect_truth(const problem *p, const result *r);
void expect_truth_of_training(const problem *p, const result *r, const gradients *g);

#endif
