#!/usr/bin/env python3
"""Records what upstream's scheduler decides in random worlds.

    record.py BINARIES OUT SEED WORLDS

BINARIES is a folder with upstream's etcd, kube-apiserver and kube-scheduler (`cargo xtask upstream` says where it
builds them); OUT gets one world a line. They run on loopback, in a folder that is removed afterwards. `openssl` makes
the key of the API server's tokens.

A world has nodes, labelled namespaces, a Service, a disruption budget, and pods that have a place. Ten pods are then
made one after the other, and deleted when upstream has decided: the last one has a high priority, so that others may be
sent away for it. Scores are read from the scheduler's log.
"""
import http.client
import json
import os
import random
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time

ZONE, HOST, RACK = 'topology.kubernetes.io/zone', 'kubernetes.io/hostname', 'rack'
NAMESPACES = ('one', 'two')
REQUIRED = 'requiredDuringSchedulingIgnoredDuringExecution'
PREFERRED = 'preferredDuringSchedulingIgnoredDuringExecution'
MERGE = 'application/merge-patch+json'
ASKED = 10


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


class Upstream:
    """etcd, API server and scheduler."""

    def __init__(self, binaries):
        self.binaries = binaries
        self.folder = tempfile.mkdtemp(prefix='ondt-worlds-')
        self.log = os.path.join(self.folder, 'kube-scheduler.log')
        self.processes = []
        self.connection = None
        self.port = free_port()

    def start(self, name, *arguments):
        with open(os.path.join(self.folder, name + '.log'), 'w') as log:
            command = [os.path.join(self.binaries, name), *arguments]
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))

    def __enter__(self):
        folder, etcd, peers = self.folder, free_port(), free_port()
        subprocess.check_call(['openssl', 'genrsa', '-out', f'{folder}/key', '2048'], stderr=subprocess.DEVNULL)
        with open(f'{folder}/tokens', 'w') as tokens:
            tokens.write('secret,admin,admin,"system:masters"\n')
        self.start('etcd', f'--data-dir={folder}/etcd', f'--listen-client-urls=http://127.0.0.1:{etcd}',
                   f'--advertise-client-urls=http://127.0.0.1:{etcd}',
                   f'--listen-peer-urls=http://127.0.0.1:{peers}', '--unsafe-no-fsync')
        self.start('kube-apiserver', f'--etcd-servers=http://127.0.0.1:{etcd}',
                   f'--service-account-key-file={folder}/key', f'--service-account-signing-key-file={folder}/key',
                   '--service-account-issuer=https://x', f'--token-auth-file={folder}/tokens',
                   '--authorization-mode=RBAC', f'--secure-port={self.port}', '--bind-address=127.0.0.1',
                   f'--cert-dir={folder}/certs', '--service-cluster-ip-range=10.0.0.0/24',
                   '--disable-admission-plugins=ServiceAccount,TaintNodesByCondition,DefaultTolerationSeconds')
        self.until(lambda: self.call('GET', '/readyz', check=False).get('text') == 'ok', 120)
        cluster = {'server': f'https://127.0.0.1:{self.port}', 'insecure-skip-tls-verify': True}
        self.write('kubeconfig', {
            'apiVersion': 'v1', 'kind': 'Config', 'current-context': 'x',
            'clusters': [{'name': 'c', 'cluster': cluster}], 'users': [{'name': 'u', 'user': {'token': 'secret'}}],
            'contexts': [{'name': 'x', 'context': {'cluster': 'c', 'user': 'u'}}]})
        self.write('configuration', {
            'apiVersion': 'kubescheduler.config.k8s.io/v1', 'kind': 'KubeSchedulerConfiguration',
            'leaderElection': {'leaderElect': False},
            'clientConnection': {'kubeconfig': f'{folder}/kubeconfig', 'qps': 5000, 'burst': 5000}})
        self.start('kube-scheduler', f'--config={folder}/configuration', '-v=10', f'--secure-port={free_port()}',
                   '--bind-address=127.0.0.1', f'--cert-dir={folder}/scheduler')
        for name, value, policy in (('low', -5, None), ('high', 1000, None), ('never', 1000, 'Never')):
            self.call('POST', '/apis/scheduling.k8s.io/v1/priorityclasses', {
                'apiVersion': 'scheduling.k8s.io/v1', 'kind': 'PriorityClass', 'metadata': {'name': name},
                'value': value, **({'preemptionPolicy': policy} if policy else {})})
        for name in NAMESPACES:
            self.call('POST', '/api/v1/namespaces',
                      {'apiVersion': 'v1', 'kind': 'Namespace', 'metadata': {'name': name}})
        time.sleep(3)
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self.folder)

    def write(self, name, content):
        with open(os.path.join(self.folder, name), 'w') as file:
            json.dump(content, file)

    @staticmethod
    def until(condition, seconds):
        for _ in range(seconds * 4):
            try:
                if condition():
                    return
            except OSError:
                pass
            time.sleep(0.25)
        sys.exit('upstream does not start; look at its logs')

    def call(self, method, path, body=None, media='application/json', check=True):
        headers = {'Authorization': 'Bearer secret', 'Content-Type': media}
        for last in (False, True):
            try:
                if self.connection is None:
                    context = ssl._create_unverified_context()
                    self.connection = http.client.HTTPSConnection('127.0.0.1', self.port, context=context, timeout=30)
                self.connection.request(method, path, None if body is None else json.dumps(body), headers)
                response = self.connection.getresponse()
                data = response.read()
                break
            except (http.client.HTTPException, OSError):
                self.connection = None
                if last:
                    raise
        if check and response.status >= 300:
            raise RuntimeError(f'{method} {path}: {response.status} {data[:500]}')
        try:
            return json.loads(data)
        except ValueError:
            return {'text': data.decode()}

    def scores(self, name, since):
        """The total of every node for a pod, from what the log has gained."""
        with open(self.log) as log:
            log.seek(since)
            lines = [line for line in log if f'/{name}"' in line]
        pattern = re.compile(r"Calculated node's final score for pod.*node=\"([^\"]+)\" score=(-?\d+)")
        return {found[1]: int(found[2]) for found in map(pattern.search, lines) if found}


class Draw(random.Random):
    """Objects drawn by lot."""

    def maybe(self, chance):
        return self.random() < chance

    def selector(self):
        if self.maybe(.08):
            return {}
        selector = {}
        if self.maybe(.8):
            selector['matchLabels'] = {'app': self.choice('abc')}
        if self.maybe(.3) or not selector:
            selector['matchExpressions'] = [self.choice([
                {'key': 'tier', 'operator': 'Exists'}, {'key': 'tier', 'operator': 'DoesNotExist'},
                {'key': 'app', 'operator': 'NotIn', 'values': [self.choice('abc')]},
                {'key': 'tier', 'operator': 'In', 'values': ['web', 'db']}])]
        return selector

    def term(self):
        term = {'topologyKey': self.choice([ZONE, HOST, RACK]), 'labelSelector': self.selector()}
        lot = self.random()
        if lot < .2:
            term['namespaces'] = self.sample(NAMESPACES, self.choice([1, 2]))
        elif lot < .35:
            term['namespaceSelector'] = self.choice([
                {}, {'matchLabels': {'team': 'x'}},
                {'matchExpressions': [{'key': 'team', 'operator': 'DoesNotExist'}]}])
        elif lot < .4:
            term['namespaces'], term['namespaceSelector'] = ['two'], {'matchLabels': {'team': 'x'}}
        if self.maybe(.15):
            term[self.choice(['matchLabelKeys', 'mismatchLabelKeys'])] = ['version']
        return term

    def node_affinity(self):
        affinity = {}
        if self.maybe(.6):
            terms = []
            for _ in range(self.choice([1, 1, 2])):
                expressions = [self.choice([
                    {'key': ZONE, 'operator': 'In', 'values': self.sample(['z1', 'z2', 'z3'], 2)},
                    {'key': 'disk', 'operator': 'Exists'}, {'key': 'disk', 'operator': 'NotIn', 'values': ['ssd']},
                    {'key': 'cores', 'operator': 'Gt', 'values': ['4']},
                    {'key': 'cores', 'operator': 'Lt', 'values': ['8']}]) for _ in range(self.choice([1, 1, 2]))]
                name = {'key': 'metadata.name', 'operator': self.choice(['In', 'In', 'NotIn']),
                        'values': [self.choice(['n0', 'n1', 'n2', 'n9'])]}
                terms.append({'matchFields': [name]} if self.maybe(.3) else {'matchExpressions': expressions})
            affinity[REQUIRED] = {'nodeSelectorTerms': terms}
        if self.maybe(.6):
            zone = {'key': ZONE, 'operator': 'In', 'values': [self.choice(['z1', 'z2'])]}
            affinity[PREFERRED] = [
                {'weight': self.randint(1, 100), 'preference': {'matchExpressions': [zone]}},
                {'weight': self.randint(1, 100),
                 'preference': {'matchExpressions': [{'key': 'disk', 'operator': 'Exists'}]}}]
        return affinity

    def affinity(self, chance):
        affinity = {}
        if self.maybe(.35 * chance):
            affinity['nodeAffinity'] = self.node_affinity()
        for side in ('podAffinity', 'podAntiAffinity'):
            if self.maybe(.5 * chance):
                one = affinity[side] = {}
                if self.maybe(.6):
                    one[REQUIRED] = [self.term() for _ in range(self.choice([1, 1, 1, 2]))]
                if self.maybe(.6):
                    one[PREFERRED] = [{'weight': self.randint(1, 100), 'podAffinityTerm': self.term()}
                                      for _ in range(self.choice([1, 2]))]
        return {side: one for side, one in affinity.items() if one}

    def spread(self):
        constraints = []
        for key in self.sample([ZONE, HOST, RACK], self.choice([1, 1, 2])):
            when = self.choice(['DoNotSchedule', 'ScheduleAnyway'])
            constraint = {'maxSkew': self.choice([1, 1, 2]), 'topologyKey': key, 'whenUnsatisfiable': when,
                          'labelSelector': self.selector()}
            if when == 'DoNotSchedule' and self.maybe(.3):
                constraint['minDomains'] = self.choice([2, 3, 5])
            if self.maybe(.3):
                constraint['nodeAffinityPolicy'] = self.choice(['Honor', 'Ignore'])
            if self.maybe(.4):
                constraint['nodeTaintsPolicy'] = self.choice(['Honor', 'Ignore'])
            if self.maybe(.2):
                constraint['matchLabelKeys'] = ['version']
            constraints.append(constraint)
        return constraints

    def container(self, placed):
        requests = {}
        if self.maybe(.7):
            requests['cpu'] = self.choice(['100m', '500m', '1', '2'])
        if self.maybe(.6):
            requests['memory'] = self.choice(['128Mi', '1Gi', '2Gi'])
        if self.maybe(.05):
            requests['ephemeral-storage'] = '1Gi'
        if not placed and self.maybe(.06):
            requests['cpu'] = '64'
        container = {'name': 'c', 'image': self.choice(['img/a:1', 'img/b', 'img/c:1']),
                     'resources': {'requests': requests}}
        if self.maybe(.04):
            requests['example.com/gpu'] = '1'
            container['resources']['limits'] = {'example.com/gpu': '1'}
        if self.maybe(.15):
            port = {'containerPort': 80, 'hostPort': self.choice([80, 81])}
            if self.maybe(.3):
                port['hostIP'] = '127.0.0.1'
            if self.maybe(.2):
                port['protocol'] = 'UDP'
            container['ports'] = [port]
        return container

    def pod(self, name, placed, chance):
        labels = {'app': self.choice('abc')}
        if self.maybe(.5):
            labels['tier'] = self.choice(['web', 'db'])
        if self.maybe(.4):
            labels['version'] = self.choice(['1', '2'])
        spec = {'containers': [self.container(placed)]}
        if self.maybe(.15):
            spec['initContainers'] = [{'name': 'i', 'image': 'img/c:1',
                                       'resources': {'requests': {'cpu': self.choice(['1', '3'])}}}]
        if self.maybe(.25 * chance):
            spec['nodeSelector'] = self.choice([{'disk': 'ssd'}, {ZONE: 'z1'}, {RACK: 'r1'}])
        if self.maybe(.45):
            spec['tolerations'] = self.sample([
                {'key': 'k', 'operator': 'Exists'}, {'operator': 'Exists', 'effect': 'PreferNoSchedule'},
                {'key': 'k', 'operator': 'Equal', 'value': 'v', 'effect': 'NoSchedule'},
                {'key': 'node.kubernetes.io/unschedulable', 'operator': 'Exists'}], self.choice([1, 2]))
        spec['affinity'] = self.affinity(chance)
        if not placed and self.maybe(.4 * chance):
            spec['topologySpreadConstraints'] = self.spread()
        priority = self.choice(['low', 'low', 'high']) if placed else self.choice(['low', 'low', 'never'])
        if not placed or self.maybe(.6):
            spec['priorityClassName'] = priority
        metadata = {'name': name, 'namespace': self.choice(['one', 'one', 'two']), 'labels': labels}
        return {'apiVersion': 'v1', 'kind': 'Pod', 'metadata': metadata, 'spec': spec}

    def node(self, index, sizes):
        labels = {}
        for key, chance, values in ((HOST, .9, [f'n{index}']), (ZONE, .9, ['z1', 'z2', 'z3']),
                                    ('disk', .5, ['ssd', 'hdd']), (RACK, .6, ['r1', 'r2']),
                                    ('cores', .5, ['2', '6', '16'])):
            if self.maybe(chance):
                labels[key] = self.choice(values)
        spec = {}
        if self.maybe(.22):
            spec['taints'] = self.sample([
                {'key': 'k', 'value': 'v', 'effect': 'NoSchedule'}, {'key': 'k', 'effect': 'NoExecute'},
                {'key': 'p', 'effect': 'PreferNoSchedule'}, {'key': 'q', 'effect': 'PreferNoSchedule'}],
                self.choice([1, 2]))
        if self.maybe(.06):
            spec['unschedulable'] = True
        allocatable = {'cpu': self.choice(['2', '4', '8']), 'memory': self.choice(['4Gi', '8Gi']),
                       'pods': self.choice(['3', '10', '110']), 'ephemeral-storage': '10Gi'}
        if self.maybe(.2):
            allocatable['example.com/gpu'] = '1'
        images = [image for image in sizes if self.maybe(.5)]
        node = {'apiVersion': 'v1', 'kind': 'Node', 'metadata': {'name': f'n{index}', 'labels': labels}, 'spec': spec}
        return node, {'status': {'allocatable': allocatable, 'capacity': allocatable, 'images': images}}


def kept(tree, fields):
    return {field: tree[field] for field in fields if tree.get(field)}


def kept_pod(pod):
    spec = kept(pod['spec'], ('nodeName', 'nodeSelector', 'affinity', 'tolerations', 'topologySpreadConstraints',
                              'priority', 'preemptionPolicy', 'schedulerName'))
    for field in ('containers', 'initContainers'):
        if field in pod['spec']:
            spec[field] = [kept(one, ('name', 'image', 'resources', 'ports')) for one in pod['spec'][field]]
    return {'metadata': kept(pod['metadata'], ('name', 'namespace', 'uid', 'labels')), 'spec': spec,
            'status': kept(pod.get('status', {}), ('phase', 'startTime'))}


def make(upstream, draw, number):
    """Makes a world; returns what there is."""
    world = {'name': f'world {number}', 'namespaces': [], 'nodes': [], 'services': [], 'budgets': [], 'placed': []}
    for name in NAMESPACES:
        now = upstream.call('GET', f'/api/v1/namespaces/{name}')
        now['metadata']['labels'] = {'kubernetes.io/metadata.name': name}
        if draw.maybe(.6):
            now['metadata']['labels']['team'] = draw.choice('xxy')
        upstream.call('PUT', f'/api/v1/namespaces/{name}', now)
        world['namespaces'].append({'metadata': kept(now['metadata'], ('name', 'labels'))})
    # An image is as large on every node.
    sizes = [{'names': ['img/a:1', 'img/a@sha256:abc'], 'sizeBytes': draw.choice([10**7, 3 * 10**8, 2 * 10**9])},
             {'names': ['img/b:latest'], 'sizeBytes': draw.choice([10**8, 5 * 10**8])}]
    count = draw.randint(3, 9)
    for index in range(count):
        node, status = draw.node(index, sizes)
        upstream.call('POST', '/api/v1/nodes', node)
        node = upstream.call('PATCH', f'/api/v1/nodes/n{index}/status', status, MERGE)
        world['nodes'].append({'metadata': kept(node['metadata'], ('name', 'labels')), 'spec': node['spec'],
                               'status': kept(node['status'], ('allocatable', 'images'))})
    if draw.maybe(.5):
        service = {'apiVersion': 'v1', 'kind': 'Service', 'metadata': {'name': 's'},
                   'spec': {'selector': {'app': draw.choice('abc')}, 'ports': [{'port': 80}]}}
        upstream.call('POST', '/api/v1/namespaces/one/services', service)
        world['services'].append({'spec': kept(service['spec'], ('selector',))})
    if draw.maybe(.5):
        selector = {'matchLabels': {'app': draw.choice('abc')}}
        status = {'disruptionsAllowed': draw.choice([0, 1]), 'currentHealthy': 1, 'desiredHealthy': 1,
                  'expectedPods': 1, 'observedGeneration': 1}
        budgets = '/apis/policy/v1/namespaces/one/poddisruptionbudgets'
        upstream.call('POST', budgets, {'apiVersion': 'policy/v1', 'kind': 'PodDisruptionBudget',
                                        'metadata': {'name': 'b'}, 'spec': {'selector': selector, 'minAvailable': 1}})
        upstream.call('PATCH', f'{budgets}/b/status', {'status': status}, MERGE)
        world['budgets'].append({'spec': {'selector': selector}, 'status': kept(status, ('disruptionsAllowed',))})
    crowded = number % 2 == 1
    for index in range(draw.randint(3 * count, 5 * count) if crowded else draw.randint(0, 4 * count)):
        pod = draw.pod(f'placed{index}', True, .15 if crowded else .5)
        if crowded and draw.maybe(.7):
            pod['spec']['containers'][0]['resources']['requests']['cpu'] = draw.choice(['700m', '1', '1500m'])
        pod['spec']['nodeName'] = f'n{draw.randrange(count)}'
        pods = f'/api/v1/namespaces/{pod["metadata"]["namespace"]}/pods'
        upstream.call('POST', pods, pod)
        started = f'2026-01-01T00:{draw.randrange(60):02}:{draw.randrange(60):02}Z'
        status = {'status': {'phase': 'Running', 'startTime': started}}
        pod = upstream.call('PATCH', f'{pods}/{pod["metadata"]["name"]}/status', status, MERGE)
        world['placed'].append(kept_pod(pod))
    time.sleep(0.4)
    return world


def ask(upstream, world, pod):
    """What upstream does with a pod."""
    name, since = pod['metadata']['name'], os.path.getsize(upstream.log)
    pods = f'/api/v1/namespaces/{pod["metadata"]["namespace"]}/pods'
    answer = {'pod': kept_pod(upstream.call('POST', pods, pod))}
    for _ in range(300):
        time.sleep(0.02)
        now = upstream.call('GET', f'{pods}/{name}')
        refused = [condition for condition in now['status'].get('conditions', [])
                   if condition['type'] == 'PodScheduled' and condition['status'] == 'False']
        if now['spec'].get('nodeName'):
            time.sleep(0.03)
            answer.update(node=now['spec']['nodeName'], totals=upstream.scores(name, since))
            break
        if refused:
            answer['message'] = refused[0]['message']
            break
    else:
        raise RuntimeError(f'upstream says nothing of {name}')
    count = re.search(r'preempting (\d+) victims', answer.get('message', ''))
    if count:
        time.sleep(0.3)
        there = [one for namespace in NAMESPACES
                 for one in upstream.call('GET', f'/api/v1/namespaces/{namespace}/pods')['items']]
        staying = {one['metadata']['uid'] for one in there if 'deletionTimestamp' not in one['metadata']}
        victims = [one['metadata']['name'] for one in world['placed'] if one['metadata']['uid'] not in staying]
        # With more of them upstream has tried again already, and whom it chose first is not known.
        if len(victims) == int(count[1]):
            answer['victims'] = sorted(victims)
    upstream.call('DELETE', f'{pods}/{name}', {'gracePeriodSeconds': 0}, check=False)
    time.sleep(0.06)
    return answer


def record(upstream, draw, number):
    world = make(upstream, draw, number)
    world['asked'] = []
    for index in range(ASKED):
        last = index == ASKED - 1
        pod = draw.pod(f'w{number}q{index}', False, .3 if last and number % 2 else 1)
        if last:
            pod['spec']['priorityClassName'] = 'high'
            pod['spec']['containers'][0]['resources']['requests']['cpu'] = draw.choice(['1', '1900m'])
        world['asked'].append(ask(upstream, world, pod))
    for namespace in NAMESPACES:
        upstream.call('DELETE', f'/api/v1/namespaces/{namespace}/pods', {'gracePeriodSeconds': 0})
        upstream.call('DELETE', f'/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets')
    upstream.call('DELETE', '/api/v1/namespaces/one/services/s', check=False)
    upstream.call('DELETE', '/api/v1/nodes')
    time.sleep(0.4)
    return world


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    binaries, out, seed, worlds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with Upstream(binaries) as upstream, open(out, 'w') as file:
        for number in range(worlds):
            world = record(upstream, Draw(seed * 1000 + number), number)
            file.write(json.dumps(world, separators=(',', ':'), sort_keys=True) + '\n')
            print(world['name'], sum('node' in answer for answer in world['asked']), 'of', ASKED, 'placed', flush=True)


main()
