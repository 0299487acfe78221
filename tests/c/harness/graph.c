/* SPDX-License-Identifier: BSD-3-Clause */
#include "graph.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "system.h"

/* The nodes of the graph before, which are used again: pages that are new cost more than what is computed. */
static graph spare;

static var node_new(graph *g, size_t n)
{
    if (g->nodes == NULL) {
        g->nodes = spare.nodes;
        g->room = spare.nodes != NULL ? spare.room : 0;
        spare.nodes = NULL;
        g->count = 0;
    }
    if (g->count + n > g->room) {
        const size_t room = 2 * (g->count + n) + 4096, bytes = room * sizeof *g->nodes;
        node *nodes = pages_new(bytes);
        if (nodes == NULL) {
            printf("no memory for the oracle\n");
            exit(2);
        }
        if (g->nodes != NULL) {
            memcpy(nodes, g->nodes, g->count * sizeof *nodes);
            pages_free(g->nodes, g->room * sizeof *nodes);
        }
        g->nodes = nodes;
        g->room = room;
    }
    memset(g->nodes + g->count, 0, n * sizeof *g->nodes);
    g->count += n;
    return g->count - n;
}

void graph_free(graph *g)
{
    if (spare.nodes != NULL)
        pages_free(spare.nodes, spare.room * sizeof *spare.nodes);
    spare = *g;
    g->nodes = NULL;
}

static double rounded(const graph *g, double value) { return g->single ? (double)(float)value : value; }

var constants(graph *g, size_t n) { return node_new(g, n); }

var constant(graph *g, double value)
{
    const var v = node_new(g, 1);
    g->nodes[v].value = value;
    return v;
}

var gathered(graph *g, const var *from, size_t n, bool detached)
{
    const var first = node_new(g, n);
    for (size_t k = 0; k < n; k++) {
        node *to = &g->nodes[first + k];
        to->value = value_of(g, from[k]);
        to->a = from[k];
        to->slope_a = detached ? 0.0 : 1.0;
    }
    return first;
}

var dot(graph *g, var a, var b, size_t n)
{
    const var v = node_new(g, 1);
    node *to = &g->nodes[v];
    for (size_t k = 0; k < n; k++) to->value = rounded(g, to->value + value_of(g, a + k) * value_of(g, b + k));
    to->a = a;
    to->b = b;
    to->n = n;
    return v;
}

var computed(graph *g, double value, var a, double slope_a, var b, double slope_b)
{
    const var v = node_new(g, 1);
    const node to = {
        .value = rounded(g, value), .a = a, .slope_a = rounded(g, slope_a), .b = b, .slope_b = rounded(g, slope_b)};
    g->nodes[v] = to;
    return v;
}

var add(graph *g, var a, var b) { return computed(g, value_of(g, a) + value_of(g, b), a, 1.0, b, 1.0); }

var subtract(graph *g, var a, var b) { return computed(g, value_of(g, a) - value_of(g, b), a, 1.0, b, -1.0); }

var multiply(graph *g, var a, var b)
{
    const double u = value_of(g, a), v = value_of(g, b);
    return computed(g, u * v, a, v, b, u);
}

var divide(graph *g, var a, var b)
{
    const double u = value_of(g, a), v = value_of(g, b);
    return computed(g, u / v, a, 1.0 / v, b, -u / (v * v));
}

var scaled(graph *g, var a, double factor, double offset)
{
    return computed(g, factor * value_of(g, a) + offset, a, factor, a, 0.0);
}

var larger(graph *g, var a, var b)
{
    const bool first = value_of(g, a) >= value_of(g, b);
    return computed(g, value_of(g, first ? a : b), a, first ? 1.0 : 0.0, b, first ? 0.0 : 1.0);
}

var limited(graph *g, var a, double limit)
{
    const double u = value_of(g, a);
    if (limit == 0.0 || fabs(u) <= limit)
        return a;
    return computed(g, copysign(limit, u), a, 0.0, a, 0.0);
}

var exponential(graph *g, var a)
{
    const double e = exp(value_of(g, a));
    return computed(g, e, a, e, a, 0.0);
}

var logistic(graph *g, var a)
{
    const double u = value_of(g, a), s = 1.0 / (1.0 + exp(-u));
    return computed(g, s, a, s / (1.0 + exp(u)), a, 0.0);
}

var log_logistic(graph *g, var a)
{
    const double u = value_of(g, a);
    return computed(g, fmin(u, 0.0) - log1p(exp(-fabs(u))), a, 1.0 / (1.0 + exp(u)), a, 0.0);
}

var square_root(graph *g, var a)
{
    const double root = sqrt(value_of(g, a));
    return computed(g, root, a, 0.5 / root, a, 0.0);
}

static void pass_back(graph *g, var to, double gradient)
{
    g->nodes[to].gradient = rounded(g, g->nodes[to].gradient + gradient);
}

void graph_backward(graph *g)
{
    for (size_t v = g->count; v-- > 0;) {
        const node *of = &g->nodes[v];
        const double gradient = of->gradient;
        if (gradient == 0.0)
            continue;
        for (size_t k = 0; k < of->n; k++) {
            pass_back(g, of->a + k, gradient * value_of(g, of->b + k));
            pass_back(g, of->b + k, gradient * value_of(g, of->a + k));
        }
        if (of->n == 0 && of->slope_a != 0.0)
            pass_back(g, of->a, gradient * of->slope_a);
        if (of->n == 0 && of->slope_b != 0.0)
            pass_back(g, of->b, gradient * of->slope_b);
    }
}
