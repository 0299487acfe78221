/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Numbers in float64 that know what they were computed from, so that the chain rule can be applied to all of them, backwards.
 * Where `single` is set each is rounded to float32, which shows how much a formula magnifies what is rounded.
 */
#ifndef GRAPH_H
#define GRAPH_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef size_t var; /* place in the graph; arrays stand one element behind the other */

/* Computed from a and b with these slopes; or, with n > 0, the product of n elements from a on with n from b on. */
typedef struct node {
    double value, gradient, slope_a, slope_b;
    var a, b;
    size_t n;
} node;

typedef struct graph {
    node *nodes;
    size_t count, room;
    bool single;
} graph;

void graph_free(graph *g);
static inline double value_of(const graph *g, var v) { return g->nodes[v].value; }

var constant(graph *g, double value);
/* n zeros, one behind the other, whose values may be set. */
var constants(graph *g, size_t n);
/* The same numbers, one behind the other; `detached` without what they were computed from. */
var gathered(graph *g, const var *from, size_t n, bool detached);
var dot(graph *g, var a, var b, size_t n);
/* Any function of one or two numbers. */
var computed(graph *g, double value, var a, double slope_a, var b, double slope_b);
var add(graph *g, var a, var b);
var subtract(graph *g, var a, var b);
var multiply(graph *g, var a, var b);
var divide(graph *g, var a, var b);
var scaled(graph *g, var a, double factor, double offset);
var larger(graph *g, var a, var b);         /* a where they are equal */
var limited(graph *g, var a, double limit); /* 0: as it is; at the limit the slope is 1 */
var exponential(graph *g, var a);
var logistic(graph *g, var a);
var log_logistic(graph *g, var a);
var square_root(graph *g, var a);

/* From the gradients that some were given, those of all. */
void graph_backward(graph *g);

#endif
